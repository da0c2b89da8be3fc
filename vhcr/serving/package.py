"""A trained run as a folder that MLflow can load and serve anywhere: parameters, code, signature, example."""

from __future__ import annotations

import importlib.metadata
import logging
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import vhcr
from vhcr.files import write_json, write_text
from vhcr.params import GenerationParams
from vhcr.serving.answer import AnswerParams
from vhcr.serving.model import GENERATION, RUN

if TYPE_CHECKING:
    from mlflow.models import Model, ModelSignature

NEEDED = ("run.json", "vocabulary.txt", "best.safetensors")
FILES = (*NEEDED, "provenance.json")
REQUIREMENTS = ("mlflow", "torch", "numpy", "pandas", "pyarrow", "pydantic", "safetensors")
EXAMPLE = [["hello"], ["hello", "hi , how can i help ?"]]  # contexts
CARD = "model_card.md"


def package(
    folder: Path, target: Path, *, generation: GenerationParams, card: str, about: Model | None = None
) -> None:
    """Write the run in ``folder`` to ``target`` as an MLflow model; nothing in it is a pickle.

    ``about`` is MLflow's record of the model where it has one already.
    """
    import mlflow.pyfunc
    import pandas as pd

    logging.getLogger("mlflow.pyfunc").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as temporary:
        run = Path(temporary) / RUN
        run.mkdir()
        for name in FILES:
            if name in NEEDED or (folder / name).is_file():
                shutil.copyfile(folder / name, run / name)
        write_json(run / GENERATION, generation.model_dump(mode="json"))
        write_text(run / CARD, card)
        code = Path(temporary) / "vhcr"
        shutil.copytree(Path(vhcr.__file__).parent, code, ignore=shutil.ignore_patterns("__pycache__"))
        mlflow.pyfunc.save_model(
            target,
            mlflow_model=about,
            python_model=str(code / "serving" / "model.py"),
            artifacts={RUN: str(run)},
            code_paths=[str(code)],
            signature=signature(generation),
            input_example=(pd.DataFrame({"context": EXAMPLE}), {"num_turns": 2, "seed": 1}),
            pip_requirements=requirements(),
        )


def signature(generation: GenerationParams) -> ModelSignature:
    """What goes in and out, and every parameter with its default."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import Array

    kinds = {bool: DataType.boolean, int: DataType.long, float: DataType.double, str: DataType.string}
    defaults: dict[str, Any] = AnswerParams(**generation.model_dump()).model_dump()
    specs = [
        ParamSpec(name, DataType.double, [], shape=(-1,))
        if name == "z_conv"
        else ParamSpec(name, kinds[type(value)], value)
        for name, value in defaults.items()
    ]
    texts, numbers = Array(Array(DataType.string)), Array(Array(DataType.double))
    return ModelSignature(
        inputs=Schema([ColSpec(Array(DataType.string), "context")]),
        outputs=Schema(
            [
                ColSpec(DataType.string, "response"),
                ColSpec(texts, "turns"),
                ColSpec(numbers, "log_probs"),
                ColSpec(Array(DataType.string), "remarks"),
                ColSpec(numbers, "z_conv", required=False),
            ]
        ),
        params=ParamSchema(specs),
    )


def requirements() -> list[str]:
    """What loading needs, in the versions that are installed here."""
    # A local label (2.13.0+cpu) names a build that an index may not have.
    return [f"{name}=={importlib.metadata.version(name).split('+')[0]}" for name in REQUIREMENTS]
