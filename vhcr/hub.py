"""A trained run in the form of the Hugging Face Hub: config.json, model.safetensors, a card. Nothing is sent.

``config.json`` is run.json with the words of the vocabulary, and with how its corpus generates text where
params.yaml says that, so the two files are a whole run:
``TrainedRun.load`` reads them; the core dependencies are enough, for text and ``vhcr chat`` as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vhcr.files import write_json, write_text
from vhcr.training.run import HUB_CONFIG, HUB_PARAMETERS, TrainedRun
from vhcr.training.state import write_tensors

NUMBERS = {  # of metrics.json -> what the card says
    "nll_per_word": "bound on −log p, nats per word",
    "kl_conv_per_word": "KL of z_conv, nats per word",
    "kl_utt_per_word": "KL of z_utt, nats per word",
}
CARD = """\
---
library_name: vhcr
license: apache-2.0
pipeline_tag: text-generation
tags:
- conversation
- {architecture}
---

# {system} on {corpus}, seed {seed}

A conversation model of the VHCR family (Park, Cho and Kim, NAACL 2018): {architecture}, {parameters:,}
parameters, {words:,} words. It answers what was said before.
{numbers}
## Use

The core dependencies of `vhcr` are enough to load, to score and to speak:

```python
from vhcr.training.run import TrainedRun

run = TrainedRun.load("the folder of these files")
```

With `huggingface_hub` installed, from the Hub:

```python
from vhcr.pretrained import PretrainedModel

run = PretrainedModel.from_pretrained("user/name").run
```

`vhcr chat FOLDER`, `vhcr serve FOLDER` and the other commands take the folder, too.

## Limits

It says what people in its corpus tend to say: it knows no facts and has no notion of harm; what comes out
may be wrong, offensive or copied from the corpus. It hears only words of its vocabulary; all others are
`<unk>`. Whether the corpus may be redistributed in this form is for whoever uploads it to know.
"""


def export(
    run: TrainedRun,
    folder: Path,
    metrics: Mapping[str, Any] | None = None,
    generation: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Write ``run`` to ``folder``.

    ``metrics`` are those of its evaluation, for the card; ``generation`` is the section of params.yaml that
    says how it speaks, which is otherwise as ``run`` says (where it was exported before).

    Raises:
        StorageError: the folder cannot be written to.
    """
    write_tensors(folder / HUB_PARAMETERS, run.model.state_dict(), {})
    spoken = {"generation": dict(generation)} if generation else {}
    write_json(folder / HUB_CONFIG, {**run.info, "words": run.vocabulary.words, **spoken})
    known = {key: said for key, said in NUMBERS.items() if (metrics or {}).get(key) is not None}
    rows = "".join(f"| {said} | {metrics[key]:.4g} |\n" for key, said in known.items()) if metrics else ""
    card = CARD.format(
        system=run.info["system"],
        corpus=run.info["corpus"],
        seed=run.info["seed"],
        architecture=run.params.system.architecture,
        parameters=sum(value.numel() for value in run.model.parameters()),
        words=len(run.vocabulary),
        numbers=f"\n| on the test split | |\n| --- | --- |\n{rows}" if rows else "",
    )
    write_text(folder / "README.md", card)
    return [folder / name for name in (HUB_CONFIG, HUB_PARAMETERS, "README.md")]
