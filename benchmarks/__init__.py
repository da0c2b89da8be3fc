"""Each speed we claim, beside its baseline and its limit."""
