"""Runs and evaluations as records: reading, comparing, publishing them, and what systems are called."""
