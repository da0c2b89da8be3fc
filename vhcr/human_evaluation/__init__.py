"""Human evaluation (section 4.4, Table 4): pairs of responses, people's votes on them, and their meaning."""
