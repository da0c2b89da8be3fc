"""See what the latents know: maps, topics, files for other tools, and a page to explore and to talk on."""
