"""Fast forms of a few plain operations: packed GRUs, the softmax over all words, short matrix products.

What each computes is said in a line or two; tests compare it with the plain operation.
"""
