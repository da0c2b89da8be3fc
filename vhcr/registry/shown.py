"""What one wants to see of a run in MLflow without opening the report: its plots, and what it says."""

from __future__ import annotations

import tempfile
from pathlib import Path

from vhcr.files import write_text
from vhcr.recording import client, plainly
from vhcr.report.charts import write_images
from vhcr.report.figures import figures
from vhcr.results.compare import Evidence
from vhcr.results.paper import PaperFigures
from vhcr.results.runs import Results, load_one

NUM_SAMPLES = 20
FIGURES = ("kl", "loss", "dimensions", "map")  # those that are about one run; the report has the others


def send_shown(run_id: str, corpus: str, system: str, seed: int) -> None:
    """Plots (PNG) and sample conversations (text) of an evaluated run, as artifacts of its MLflow run.

    Raises:
        DataError: a file of the run is damaged.
        RecordingError: MLflow cannot be reached, or refused.
    """
    from vhcr.tokenisation.tokeniser import readable

    results = load_one(corpus, system, seed, num_samples=NUM_SAMPLES, readable=readable)
    evidence = Evidence(results, num_samples=1, seed=0)  # none of the figures has an interval
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_text(folder / "samples.txt", samples(results))
        for figure in figures(evidence, PaperFigures(None)):
            if figure.id in FIGURES:
                write_images(figure, folder / "plots", ("png",))
        with plainly():
            client().log_artifacts(run_id, temporary)


def samples(results: Results) -> str:
    """Contexts with what the model says after them, and what was really said."""
    parts = []
    for (length, _), shown in results.runs[0].responses.items():
        lines = [
            f"({length} turns)" if length > 1 else "(1 turn)",
            *(f"      {text}" for text in shown.context),
        ]
        for said, reference in zip(shown.responses, shown.references, strict=True):
            lines += [f"  >   {said}", f"        really: {reference}"]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"
