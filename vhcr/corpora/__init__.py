"""Raw files -> Conversations."""
