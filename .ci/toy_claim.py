"""What `make run` has to show on the embedded corpus: the paper's point, on data whose causes are known.

Bounds stand in the order of the paper's Table 1. Once annealing has ended VHRED's KL falls away, while VHCR
with utterance drop keeps z_conv, and a draw of z_conv knows of the conversation its tone and its topic. The
margins leave room for another machine's rounding, but for the order of HRED and VHRED, which lie close.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from sklearn.metrics import adjusted_mutual_info_score


def metrics(system: str) -> dict[str, Any]:
    """What the evaluate stage measured on the test split."""
    path = Path("data/evaluated/toy") / system / "0" / "metrics.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def after_annealing(system: str, column: str) -> tuple[float, float]:
    """A number of the first validation with the KL weight at 1, and of the last."""
    path = Path("data/trained/toy") / system / "0" / "curves.csv"
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "validation"]
    values = [float(row[column]) for row in rows if float(row["kl_weight"]) == 1.0]
    return values[0], values[-1]


def main() -> None:
    """Print each finding; fail if one does not hold."""
    dies = after_annealing("vhred", "kl_per_word")
    lives = after_annealing("vhcr-ud", "kl_conv_per_word")
    hred, vhred, vhcr = (metrics(name)["nll_per_word"] for name in ("hred", "vhred", "vhcr-ud"))
    diagnosed = metrics("vhcr-ud")["diagnostics"]
    gap = diagnosed["reconstruction_per_word_by_source"]
    lost = gap["shuffled_conv"] - gap["posterior"]
    findings = [
        (f"bounds of HRED {hred:.4f} < VHRED {vhred:.4f} < VHCR + u.d {vhcr:.4f}", hred < vhred < vhcr),
        (f"KL of VHRED {dies[0]:.4f} -> {dies[1]:.4f}: under half of what it was", dies[1] < dies[0] / 2),
        (f"KL of z_conv {lives[0]:.4f} -> {lives[1]:.4f}: at least 0.04", lives[1] >= 0.04),
        ("  and nine tenths of what it was", lives[1] > 0.9 * lives[0]),
        (f"another's z_conv costs {lost:.4f} nats a word: over 0.1", lost > 0.1),
    ]
    # Of a draw of z_conv: its mean would tell what the KL does not let through. HRED's last context has heard
    # the whole conversation, and knows both.
    for label, least in (("tone", 0.2), ("topic", 0.4)):
        probe = diagnosed["probe"][label]
        read = probe["z_conv_drawn"]
        text = f"{label} read from a draw of z_conv {read:.3f}, chance {probe['chance']:.3f}"
        findings.append((f"{text}: {least} above", read > probe["chance"] + least))
    # Clusters of z_conv, found without labels, are islands of one topic and one tone. Measured: 0.69, 0.42.
    clusters = pq.read_table("data/evaluated/toy/vhcr-ud/0/latents/latents.parquet")
    for label, least in (("topic", 0.5), ("tone", 0.3)):
        agreement = adjusted_mutual_info_score(
            clusters[f"label_{label}"].to_pylist(), clusters["topic"].to_pylist()
        )
        findings.append(
            (f"clusters of z_conv tell the {label}: {agreement:.3f}, over {least}", agreement > least)
        )
    for text, holds in findings:
        print(f"  {'ok  ' if holds else 'FAIL'} {text}")
    if not all(holds for _, holds in findings):
        sys.exit("the embedded corpus does not show what it is there to show")


if __name__ == "__main__":
    main()
