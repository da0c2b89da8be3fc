"""A seeded search for faults: `make faults`. What is promised, and how it fared: docs/reliability.md.

Each file is one kind of mishap, and holds a table of what is tried. A case is drawn from (seed, kind, number)
alone, so that ``python -m tests.faults --seed S --only kind --case N`` tries one case again.
"""
