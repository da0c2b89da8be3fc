"""Is z used? KL split, active units, prior variance ratio."""
