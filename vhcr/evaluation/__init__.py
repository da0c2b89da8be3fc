"""Likelihood (section 4.2) and embedding metrics (4.3)."""
