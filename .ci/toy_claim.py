"""What `make run` has to show on the embedded corpus: the paper's point, on data whose causes are known.

Once annealing has ended VHRED's KL falls away, while VHCR with utterance drop keeps z_conv, and z_conv knows
of the conversation what nobody told it: its tone and, with a loss for the words, its topic, which HRED's
context tells less well. The margins leave room for another machine's rounding.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any


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
    hears = metrics("hred")["diagnostics"]["probe"]
    diagnosed = metrics("vhcr-ud")["diagnostics"]
    gap = diagnosed["reconstruction_per_word_by_source"]
    lost = gap["shuffled_conv"] - gap["posterior"]
    findings = [
        (f"KL of VHRED {dies[0]:.4f} -> {dies[1]:.4f}: under 0.005", dies[1] < 0.005),
        (f"KL of z_conv {lives[0]:.4f} -> {lives[1]:.4f}: over 0.01", lives[1] > 0.01),
        ("  and over three times that of VHRED", lives[1] > 3 * dies[1]),
        ("  and over half of what it was", lives[1] > lives[0] / 2),
        (f"another's z_conv costs {lost:.4f} nats a word: over 0.01", lost > 0.01),
    ]
    with_words = metrics("vhcr-ud-bow")["diagnostics"]["probe"]
    # Of a draw of z_conv: its mean would tell what the KL does not let through. Utterance drop alone has
    # z_conv take the tone; asked for the words, the topic too.
    for name, probes, label, least in (
        ("VHCR + u.d", diagnosed["probe"], "tone", 0.08),
        ("VHCR + u.d + bow", with_words, "topic", 0.5),
    ):
        probe = probes[label]
        read = probe["z_conv_drawn"]
        text = f"{label} read from a draw of {name}'s z_conv {read:.3f}, chance {probe['chance']:.3f}"
        findings.append((f"{text}: {least} above", read > probe["chance"] + least))
    topic, heard = with_words["topic"]["z_conv_drawn"], hears["topic"]["h_cxt"]
    findings.append((f"  and from HRED's last context {heard:.3f}: 0.1 below", topic > heard + 0.1))
    for text, holds in findings:
        print(f"  {'ok  ' if holds else 'FAIL'} {text}")
    if not all(holds for _, holds in findings):
        sys.exit("the embedded corpus does not show what it is there to show")


if __name__ == "__main__":
    main()
