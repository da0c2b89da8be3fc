"""The loop: batch, forward, loss, backward, clip, step, record. One step, one fit."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Protocol

import torch
from torch.nn.utils import clip_grad_norm_

from vhcr.batch import Batch
from vhcr.errors import ParameterError, TrainingError
from vhcr.models import ConversationModel, Noise
from vhcr.models.kernels.precision import products_in, short_products_pay
from vhcr.models.objective import Totals, kl_weight, loss
from vhcr.params import SystemParams, TrainingParams
from vhcr.token_files import Conversations
from vhcr.training.moments import LatentSums
from vhcr.training.order import epoch_order
from vhcr.training.parallel import Workers
from vhcr.training.state import Row, TrainState, write_tensors

log = logging.getLogger(__name__)

ALONE = Workers()
INFERENCE_ROUND = 5  # steps: four of the posteriors alone, then one of all parameters
VALIDATION_NOISE = -1  # the "step" of validation noise: every validation draws the same latents


@dataclass(frozen=True)
class Progress:
    """How far a run is; rates are of this process, so they are no part of what must be reproducible."""

    step: int
    total_steps: int
    epoch: int
    loss: float
    nll_per_word: float
    kl_per_word: float
    words_per_second: float
    seconds_left: float
    precision: str  # of matrix products


class Observer(Protocol):
    """Whoever wants to know how training goes: the progress bar, MLflow, a flow's artifact."""

    def recorded(self, rows: Sequence[Row], words_per_second: float) -> None:
        """New rows of the curves; after a resume, those since the checkpoint come again, identical."""

    def progress(self, progress: Progress) -> None:
        """Called after every step; must be cheap."""


class Interrupted(Exception):  # noqa: N818
    """Training was asked to stop, and has left a checkpoint."""


def adam(model: ConversationModel, params: TrainingParams) -> torch.optim.Optimizer:
    """The optimiser; one pass over each parameter (``fused``) takes a quarter of the time of six."""
    return torch.optim.Adam(model.parameters(), lr=params.learning_rate, fused=True)


def weight_of_kl(step: int, params: TrainingParams, system: SystemParams) -> float:
    """The KL weight at a step (Eq. 12, with what the system changes of it)."""
    return kl_weight(step, params.kl_annealing_steps, system.kl_cycles, system.final_kl_weight)


def schedule(num_conversations: int, params: TrainingParams) -> tuple[int, int]:
    """Steps of an epoch, and steps in all unless patience ends them."""
    per_epoch = math.ceil(num_conversations / params.batch_conversations)
    return per_epoch, int(min(params.num_epochs * per_epoch, params.max_steps or math.inf))


def learning_rate(step: int, total_steps: int, params: TrainingParams) -> float:
    """The learning rate at a step of ``total_steps``: linear from ``learning_rate`` to its final share."""
    return params.learning_rate * (1.0 - (1.0 - params.final_learning_rate_factor) * step / total_steps)


def trains_inference_alone(step: int, system: SystemParams) -> bool:
    """Whether this step updates the posteriors' own parameters and no others (He et al., 2019).

    So it is for four of every five of the first ``inference_first_steps``. He et al. go on until the bound no
    longer rises; a fixed number keeps the schedule a function of the step.
    """
    return step < system.inference_first_steps and step % INFERENCE_ROUND != INFERENCE_ROUND - 1


def settle_precision(state: TrainState, params: TrainingParams, workers: Workers = ALONE) -> None:
    """Set what products are computed in, the same in every process; a resumed run keeps what it began with.

    ``auto`` is bfloat16 where ``short_products_pay``.
    """
    model, position = state.model, state.position
    assert isinstance(model, ConversationModel)
    device = next(model.parameters()).device
    sizes = (model.sizes.decoder_size, model.vocabulary_size, device)
    if position.precision:
        if position.precision == "bfloat16" and not short_products_pay(*sizes):
            log.warning("this run began in bfloat16 and goes on in it, which is slow on this machine")
    elif params.precision == "auto":
        pays = workers.any(workers.records and short_products_pay(*sizes))
        position.precision = "bfloat16" if pays else "float32"
    else:
        position.precision = params.precision


def validate(
    model: ConversationModel,
    data: Conversations,
    batch_conversations: int,
    seed: int,
    workers: Workers = ALONE,
    should_stop: Callable[[], bool] = lambda: False,
    precision: str = "float32",
) -> tuple[Totals, dict[str, float]]:
    """The bound on all of ``data``, without drops or gradients; one draw per latent.

    With it how much each latent is used there (``LatentSums.usage``), from the same pass.

    Raises:
        Interrupted: ``should_stop`` said so, asked before every batch.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    totals, latents = Totals(), LatentSums(model)
    batches = data.batches(batch_conversations, every=workers.size, first=workers.rank)
    with torch.inference_mode():
        # As many rounds in every process, also where the last has nothing left: they answer together.
        for _ in range(0, len(data), batch_conversations * workers.size):
            if workers.any(should_stop()):
                raise Interrupted("stopped while validating")
            cpu_batch = next(batches, None)
            if cpu_batch is None:
                break
            batch = cpu_batch.to(device)
            with products_in(precision, device):
                output = model(batch, Noise(seed, VALIDATION_NOISE))
            totals.add(Totals.of(output))
            latents.add(model, batch, output)
    model.train(was_training)
    latents.values = workers.sum_tensor(latents.values)
    return workers.sum(totals), latents.usage()


def train_step(
    state: TrainState, batch: Batch | None, params: TrainingParams, seed: int, workers: Workers = ALONE
) -> Totals:
    """One update on one batch; returns what the batch cost before it.

    Of several ``workers`` each is given its share of the batch (None: it has none), and all return the same.

    Raises:
        TrainingError: the loss or its gradient is not finite.
    """
    step, model = state.position.step, state.model
    assert isinstance(model, ConversationModel)
    own = Totals()
    state.optimiser.zero_grad(set_to_none=True)
    if batch is None:
        totals = workers.sum(own)
    else:
        with products_in(state.position.precision or params.precision, batch.index.device):
            output = model(batch, Noise(seed, step))
        system = model.system
        value = loss(
            output,
            weight_of_kl(step, params, system),
            system.bag_of_words_weight,
            system.free_bits_utt,
            system.free_bits_conv,
            system.free_bits_conv_per_word,
        )
        own = Totals.of(output, value)
        totals = workers.sum(own)
        # A mean over the words of this share becomes its part of the sum, or of the mean, over all.
        among = 1 if params.loss_reduction == "sum" else max(totals.num_words, 1)
        (value * (max(own.num_words, 1) / among)).backward()
    workers.sum_gradients(model)
    if trains_inference_alone(step, model.system):
        inference = set(model.inference_parameters())
        for parameter in model.parameters():
            if parameter not in inference:
                parameter.grad = None
    norm = float(clip_grad_norm_(model.parameters(), params.gradient_clip_norm))
    if not math.isfinite(norm) or not math.isfinite(totals.loss):
        raise TrainingError(
            f"step {step}: loss {totals.loss / max(totals.num_words, 1)}, gradient norm {norm}; "
            f"conversations {[] if batch is None else batch.index.tolist()}"
        )
    state.optimiser.step()
    return totals


def fit(
    state: TrainState,
    train: Conversations,
    validation: Conversations,
    params: TrainingParams,
    *,
    seed: int,
    work: Path,
    observers: Sequence[Observer] = (),
    should_stop: Callable[[], bool] = lambda: False,
    workers: Workers = ALONE,
) -> None:
    """Train to the end of the schedule, from wherever ``state`` stands.

    ``work`` receives ``state.safetensors`` (everything) and ``best.safetensors`` (parameters with the lowest
    validation bound). The schedule ends after ``num_epochs``, ``max_steps``, or ``patience_epochs`` without
    a lower bound. Of several ``workers`` the first writes the files; observers are its alone.

    Raises:
        Interrupted: ``should_stop`` said so; a checkpoint has been left.
        TrainingError: a loss was not finite.
        ParameterError: what is asked for needs the whole batch in one process, and there are several.
    """
    model, position = state.model, state.position
    assert isinstance(model, ConversationModel)
    if workers.size > 1 and model.system.posterior_batch_norm > 0.0:
        raise ParameterError(
            "posterior_batch_norm normalises over a whole batch, and each of "
            f"{workers.size} processes has a part of it: train in one"
        )
    device = next(model.parameters()).device
    size = params.batch_conversations
    steps_per_epoch, total_steps = schedule(len(train), params)
    if not any(parameter.requires_grad for parameter in model.parameters()):  # a table of counts
        steps_per_epoch = total_steps = 0
    settle_precision(state, params, workers)
    meter = _Meter()
    saved = time.monotonic()
    model.train()

    def record(split: str, totals: Totals, usage: dict[str, float] | None = None) -> None:
        weight = weight_of_kl(position.step, params, model.system)
        mean_loss = totals.loss / max(totals.num_words, 1)
        row: Row = {"step": position.step, "epoch": position.epoch, "split": split, "loss": mean_loss}
        row |= totals.per_word()
        row["kl_weight"] = weight
        if split == "validation":
            row["loss"] = row["nll_per_word"]
        row |= usage or {}
        position.rows.append(row)
        for observer in observers:
            observer.recorded([row], meter.words_per_second)

    def check() -> None:
        """Validate; keep the parameters if the bound is the lowest so far."""
        try:
            totals, usage = validate(model, validation, size, seed, workers, should_stop, position.precision)
        except Interrupted:
            leave()
        record("validation", totals, usage)
        nll = totals.per_word()["nll_per_word"]
        if workers.records:
            log.info("step %d: validation bound %.4f nats per word", position.step, nll)
        if nll < position.best_nll_per_word:
            position.best_nll_per_word, position.best_step = nll, position.step
            if workers.records:
                write_tensors(work / "best.safetensors", model.state_dict(), {"step": position.step})
        meter.restart()

    def checkpoint() -> None:
        nonlocal saved
        state.seconds += meter.spent()
        if workers.records:
            state.save(work / "state.safetensors")
        saved = time.monotonic()

    def leave() -> NoReturn:
        checkpoint()
        workers.wait()  # torchrun ends the others as soon as one has ended
        raise Interrupted(f"stopped at step {position.step}; run again to resume") from None

    def owes_validation() -> bool:
        """Within an epoch; at its end one is made in any case. The rows tell it, to a resumed run too."""
        every, step = params.validate_every_steps, position.step
        if not every or step == 0 or step % every > 0:
            return False
        last = position.rows[-1] if position.rows else {}
        return (last.get("split"), last.get("step")) != ("validation", step)

    while not position.finished:
        order = epoch_order(len(train), seed, position.epoch, params.epoch_order)
        while position.batch_in_epoch < steps_per_epoch and position.step < total_steps:
            if owes_validation():
                check()
            first = position.batch_in_epoch * size
            chosen = workers.share(order[first : first + size])
            batch = train.batch(chosen).to(device) if len(chosen) else None
            for group in state.optimiser.param_groups:
                group["lr"] = learning_rate(position.step, total_steps, params)
            totals = train_step(state, batch, params, seed, workers)
            position.step += 1
            position.batch_in_epoch += 1
            position.window.add(totals)
            meter.add(totals.num_words)
            if position.step % params.record_every_steps == 0:
                record("train", position.window)
                position.window = Totals()
            progress = meter.progress(position.step, total_steps, position.epoch, totals, position.precision)
            for observer in observers:
                observer.progress(progress)
            if workers.any(should_stop()):
                leave()
            if time.monotonic() - saved > params.checkpoint_seconds:
                checkpoint()
        if position.window.num_words:
            record("train", position.window)
            position.window = Totals()
        check()
        gained = position.best_step > position.epoch * steps_per_epoch
        position.epochs_without_gain = 0 if gained else position.epochs_without_gain + 1
        position.epoch += 1
        position.batch_in_epoch = 0
        patience = params.patience_epochs or math.inf
        position.finished = (
            position.epoch >= params.num_epochs
            or position.step >= total_steps
            or position.epochs_without_gain >= patience
        )
        checkpoint()


class _Meter:
    """Words per second and time left, validation not counted."""

    def __init__(self) -> None:
        self._words = self._steps = 0
        self._seconds = self._unreported = 0.0
        self._mark = time.monotonic()

    def restart(self) -> None:
        self._unreported += time.monotonic() - self._mark
        self._mark = time.monotonic()

    def add(self, words: int) -> None:
        now = time.monotonic()
        self._seconds += now - self._mark
        self._unreported += now - self._mark
        self._mark = now
        self._words += words
        self._steps += 1

    def spent(self) -> float:
        """Seconds since the last call."""
        self.restart()
        seconds, self._unreported = self._unreported, 0.0
        return seconds

    @property
    def words_per_second(self) -> float:
        return self._words / max(self._seconds, 1e-9)

    def progress(self, step: int, total_steps: int, epoch: int, totals: Totals, precision: str) -> Progress:
        per_word = totals.per_word()
        left = (total_steps - step) * self._seconds / max(self._steps, 1)
        mean_loss = totals.loss / max(totals.num_words, 1)
        rate = self.words_per_second
        return Progress(
            step,
            total_steps,
            epoch,
            mean_loss,
            per_word["nll_per_word"],
            per_word["kl_per_word"],
            rate,
            left,
            precision,
        )
