"""Decoding and control: responses, conversations from z_conv, interpolation."""
