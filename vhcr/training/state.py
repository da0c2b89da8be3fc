"""TrainState: all that a resumed run needs, in one file that is written whole or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from vhcr.errors import CheckpointError, StorageError
from vhcr.files import atomic, write_text
from vhcr.models.objective import Totals

FORMAT = 1
METADATA = "vhcr"
DIGEST = "sha256"  # of all else in the file
Row = dict[str, float | int | str]


@dataclass
class Position:
    """Where a run stands. Noise, data order and KL weight are functions of it, so nothing else is random."""

    step: int = 0
    epoch: int = 0
    batch_in_epoch: int = 0
    epochs_without_gain: int = 0
    best_step: int = -1
    best_nll_per_word: float = float("inf")
    window: Totals = field(default_factory=Totals)
    rows: list[Row] = field(default_factory=list)
    finished: bool = False
    precision: str = ""  # of matrix products, chosen before the first step


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """safetensors, whole or not at all, flushed to disk, with a digest of all that it holds."""
    plain = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    with atomic(path, flush=True) as temporary:
        # One key: the library writes several in an order that changes from run to run.
        known = {**metadata, DIGEST: content_digest(plain, metadata)}
        try:
            save_file(plain, temporary, metadata={METADATA: json.dumps(known)})
        except SafetensorError as error:  # a full disk, in the library's own words
            raise StorageError(f"{path}: cannot be written: {error}") from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and metadata of a file.

    Files of before digests were written are read without holding them against one.

    Raises:
        CheckpointError: the file is missing or damaged, or not all of its numbers are finite.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {})[METADATA])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        expected = metadata.pop(DIGEST, None)
        found = expected and content_digest(tensors, metadata)
    except (
        OSError,
        SafetensorError,
        KeyError,
        ValueError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        raise CheckpointError(f"{path}: not a readable checkpoint: {error}") from None
    if found != expected:
        raise CheckpointError(f"{path}: damaged: it holds other numbers than were written")
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path}: {name} holds a number that is not finite")
    return tensors, metadata


def content_digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> str:
    """A digest of names, types, shapes and numbers of tensors, and of what is said of them."""
    total = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def load_parameters(model: nn.Module, tensors: dict[str, Tensor], origin: Path) -> None:
    """Put ``tensors`` into ``model``; raises CheckpointError naming what does not fit."""
    own = model.state_dict()
    wrong = sorted(set(own) ^ set(tensors)) or [n for n in own if own[n].shape != tensors[n].shape]
    if wrong:
        name = wrong[0]
        have = tuple(tensors[name].shape) if name in tensors else "missing"
        want = tuple(own[name].shape) if name in own else "unknown"
        raise CheckpointError(f"{origin}: was made for another model: {name} is {have}, expected {want}")
    model.load_state_dict(tensors)


class TrainState:
    """A model, its optimiser and its position; ``identity`` ties a file to its parameters, data and code."""

    def __init__(self, model: nn.Module, optimiser: torch.optim.Optimizer, identity: str) -> None:
        self.model = model
        self.optimiser = optimiser
        self.identity = identity
        self.position = Position()
        self.seconds = 0.0  # spent training; kept beside the file, whose bytes follow from the run alone

    def save(self, path: Path) -> None:
        """Write everything to one file."""
        tensors = {f"model/{name}": value for name, value in self.model.state_dict().items()}
        for number, slots in self.optimiser.state_dict()["state"].items():
            tensors.update({f"optimiser/{number}/{slot}": torch.as_tensor(v) for slot, v in slots.items()})
        position = asdict(self.position)
        if self.position.best_nll_per_word == float("inf"):
            position["best_nll_per_word"] = None
        write_tensors(path, tensors, {"format": FORMAT, "identity": self.identity, "position": position})
        write_text(path.with_suffix(".seconds"), f"{self.seconds}\n")

    def load(self, path: Path) -> None:
        """Take up where ``path`` left off.

        Raises:
            CheckpointError: the file is damaged, or belongs to other parameters, data or code.
        """
        tensors, metadata = read_tensors(path)
        if metadata.get("format") != FORMAT or metadata.get("identity") != self.identity:
            raise CheckpointError(
                f"{path}: belongs to run {metadata.get('identity')}, not to {self.identity}: "
                "its parameters, data or code differ"
            )
        parameters = {n.removeprefix("model/"): t for n, t in tensors.items() if n.startswith("model/")}
        load_parameters(self.model, parameters, path)
        slots: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("optimiser/"):
                _, number, slot = name.split("/")
                slots.setdefault(int(number), {})[slot] = tensor
        state = self.optimiser.state_dict()
        state["state"] = slots
        self.optimiser.load_state_dict(state)
        values = metadata["position"]
        if values["best_nll_per_word"] is None:
            values["best_nll_per_word"] = float("inf")
        if path.with_suffix(".seconds").exists():
            self.seconds = float(path.with_suffix(".seconds").read_text(encoding="utf-8"))
        self.position = Position(**{**values, "window": Totals(**values["window"])})
