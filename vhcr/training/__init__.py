"""The loop (one step, one fit) and the state that a resume needs."""
