"""What a model can be asked for, whoever asks: a command, a chat or a request over HTTP."""

from __future__ import annotations

# Of latents: far beyond all that a model was trained on, and far within what float32 holds. Past that, sums
# on the way to a word overflow, and every word is as likely as nothing.
MAX_LATENT_SCALE = 1000.0
MAX_LATENT = 1e6  # of a z_conv that is given, each number, either way
MAX_SEED = 2**63 - 1  # what torch takes as an integer
