"""Tests, laid out as vhcr/ is."""
