"""What a training will take on this machine: steps counted, a few batches timed, memory measured."""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import torch

from vhcr.batch import Batch
from vhcr.errors import ParameterError
from vhcr.models import Noise, build
from vhcr.models.kernels.precision import products_in
from vhcr.params import TrainingParams
from vhcr.token_files import Conversations
from vhcr.training.device import choose_device
from vhcr.training.loop import Interrupted, adam, schedule, settle_precision, train_step
from vhcr.training.order import ComputedOrder, epoch_order
from vhcr.training.run import RunParams
from vhcr.training.state import TrainState

TIMED = 4  # batches of each kind at most
STEPS_PER_TIMED = 50  # a short training is not made much longer


@dataclass(frozen=True)
class Work:
    """What ``fit`` computes unless patience ends it; EOS counts as a word."""

    num_steps: int
    num_words: int
    num_validations: int
    validation_words: int  # of one validation


def work(train: Conversations, validation: Conversations, params: TrainingParams, seed: int) -> Work:
    """The schedule of ``fit``, counted. Words are those of the very batches, so short ones count for less."""
    per_epoch, num_steps = schedule(len(train), params)
    whole, rest = divmod(num_steps, per_epoch)
    last = epoch_order(len(train), seed, whole, params.epoch_order)[: rest * params.batch_conversations]
    num_words = whole * train.num_words + int(train.words_per_conversation[last].sum())
    num_validations = math.ceil(num_steps / per_epoch)
    if params.validate_every_steps:
        within = range(params.validate_every_steps, num_steps, params.validate_every_steps)
        num_validations += sum(step % per_epoch > 0 for step in within)
    return Work(num_steps, num_words, num_validations, validation.num_words)


@dataclass(frozen=True)
class Estimate:
    """Of one training; as text the line that is shown before it starts."""

    work: Work
    words_per_second: float  # of training
    validation_words_per_second: float
    precision: str
    peak_bytes: int  # of the process on a CPU, of tensors on a GPU

    @property
    def seconds(self) -> float:
        """All steps and all validations; an evaluation comes on top."""
        training = self.work.num_words / self.words_per_second
        validating = self.work.num_validations * self.work.validation_words
        return training + validating / self.validation_words_per_second

    def __str__(self) -> str:
        length = timedelta(seconds=round(self.seconds))
        return (
            f"{self.work.num_steps:,} steps, {self.work.num_validations:,} validations, about "
            f"{length} ({self.words_per_second:,.0f} words/s in {self.precision}), "
            f"peak memory {self.peak_bytes / 1e9:.1f} GB"
        )


def estimate(
    params: RunParams,
    vocabulary_size: int,
    train: Conversations,
    validation: Conversations,
    seed: int,
    should_stop: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.perf_counter,
) -> Estimate:
    """Time a few of the training's own batches on a model of its own, which is thrown away.

    Seconds are taken to be proportional to words. The longest batch of the first epoch goes first: it is not
    timed, and memory is at its peak with it.

    Raises:
        Interrupted: ``should_stop`` said so, asked before every batch.
        ParameterError: there are no steps to time: the model counts words.
    """
    if params.system.architecture == "kneser-ney":
        raise ParameterError("'kneser-ney' counts words, once: it has no steps to be timed")
    device = choose_device(params.training.device)
    size = params.training.batch_conversations
    model = build(params.model, params.system, vocabulary_size, seed).to(device)
    state = TrainState(model, adam(model, params.training), "estimate")
    settle_precision(state, params.training)

    def update(batch: Batch) -> None:
        if should_stop():
            raise Interrupted("stopped while estimating")
        train_step(state, batch, params.training, seed)
        state.position.step += 1

    def validate(batch: Batch) -> None:
        with torch.inference_mode(), products_in(state.position.precision, device):
            model(batch, Noise(seed))

    def rate(step: Callable[[Batch], None], batches: list[Batch]) -> float:
        start = clock()
        for batch in batches:
            step(batch)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return sum(len(batch.token_ids) for batch in batches) / max(clock() - start, 1e-9)

    def some(data: Conversations, parts: list[np.ndarray]) -> list[Batch]:
        return [data.batch(part).to(device) for part in parts]

    kind = params.training.epoch_order
    of_all = work(train, validation, params.training, seed)
    timed = min(TIMED, 1 + of_all.num_steps // STEPS_PER_TIMED)
    parts = _parts(epoch_order(len(train), seed, 0, kind), size)
    words = train.words_per_conversation
    longest = max(parts, key=lambda part: int(words[part].sum()))
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    model.train()
    update(train.batch(longest).to(device))
    trained = rate(update, some(train, parts[:timed]))
    model.eval()
    held_out = some(validation, _parts(epoch_order(len(validation), seed, 0, kind), size)[:timed])
    validate(held_out[0])
    validated = rate(validate, held_out)
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_of_process()
    return Estimate(of_all, trained, validated, state.position.precision, peak)


def _parts(order: np.ndarray | ComputedOrder, size: int) -> list[np.ndarray]:
    """``order`` cut into batches of ``size``; the last may be shorter."""
    return [order[first : first + size] for first in range(0, len(order), size)]


def peak_of_process() -> int:
    """The most memory that this process has had, in bytes."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
