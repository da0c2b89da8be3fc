"""Tests of vhcr.report."""
