"""Section 3 of the paper: HRED, VHRED and VHCR over shared pieces."""
