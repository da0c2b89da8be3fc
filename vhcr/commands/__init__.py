"""The commands a person types, by what they are for; ``vhcr.cli`` puts them together."""
