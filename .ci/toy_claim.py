"""What `make run` has to show on the embedded corpus: the paper's point, on data whose causes are known.

VHRED's KL has all but vanished; VHCR with utterance drop keeps z_conv, and z_conv knows of the conversation
what nobody told it. The margins are wide enough for another machine's rounding (seeds 0 and 1 differ more).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def metrics(system: str) -> dict[str, Any]:
    """What the evaluate stage measured on the test split."""
    path = Path("data/evaluated/toy") / system / "0" / "metrics.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def main() -> None:
    """Print each finding; fail if one does not hold."""
    hred, vhred, vhcr = (metrics(system) for system in ("hred", "vhred", "vhcr-ud"))
    used, probes = vhcr["diagnostics"], vhcr["diagnostics"]["probe"]
    hears = hred["diagnostics"]["probe"]
    gap = used["reconstruction_per_word_by_source"]
    findings = {
        "KL of VHRED, nats a word < 0.02": (vhred["kl_per_word"], vhred["kl_per_word"] < 0.02),
        "KL of z_conv, nats a word > 0.015": (vhcr["kl_conv_per_word"], vhcr["kl_conv_per_word"] > 0.015),
        "its active units >= 4": (used["active_units_conv"], used["active_units_conv"] >= 4),
        "nats a word lost with another's z_conv > 0.01": (
            gap["shuffled_conv"] - gap["posterior"],
            gap["shuffled_conv"] - gap["posterior"] > 0.01,
        ),
    }
    for label, least in (("topic", 0.08), ("tone", 0.25)):
        known, chance = probes[label]["z_conv"], probes[label]["chance"]
        findings[f"{label} read from z_conv, above chance ({chance:.3f}) by {least}"] = (
            known,
            known > chance + least,
        )
        print(f"  ({label} read from HRED's last context: {hears[label]['h_cxt']:.3f})")
    for text, (value, holds) in findings.items():
        print(f"  {'ok  ' if holds else 'FAIL'} {text}: {value:.4f}")
    if not all(holds for _, holds in findings.values()):
        sys.exit("the embedded corpus does not show what it is there to show")


if __name__ == "__main__":
    main()
