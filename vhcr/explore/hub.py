"""A trained run as the Hugging Face Hub expects it: config.json, model.safetensors and a card; nothing is sent.

``config.json`` holds all but the parameters, words included, so that these two files are enough.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vhcr.files import read_json, write_json, write_text
from vhcr.training.run import CONFIG, PARAMETERS, TrainedRun
from vhcr.training.state import write_tensors

CARD = """\
---
library_name: vhcr
license: apache-2.0
pipeline_tag: text-generation
tags:
- conversation
- {architecture}
{results}---

# {system} on {corpus}, seed {seed}

A conversation model ({architecture}; Park, Cho and Kim, NAACL 2018) with {parameters:,} parameters and
{words:,} words.

{numbers}## Use

```sh
pip install vhcr    # its core dependencies are enough
```

```python
from vhcr.training.run import TrainedRun

run = TrainedRun.load("this folder")
```

With `huggingface_hub` installed, `vhcr.explore.pretrained.PretrainedModel.from_pretrained("user/name")` loads it from the
Hub; its `run` is the same.

## Limits

It says what people in its corpus tend to say: it knows no facts and has no notion of harm. It hears only
words of its vocabulary; all others are `<unk>`.
"""
