"""Variational Hierarchical Conversation RNN (VHCR, NAACL 2018) as an orchestrated data pipeline."""
