"""Text <-> words <-> ids."""
