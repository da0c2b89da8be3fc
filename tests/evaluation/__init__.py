"""Tests of vhcr.evaluation."""
