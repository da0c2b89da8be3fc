"""One file per stage: read files, call one room, write files."""
