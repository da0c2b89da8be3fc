"""The two implementations on the same batches, from the same parameters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from benchmarks.baseline import Baseline, PaddedBatch
from vhcr.batch import Batch
from vhcr.models import HierarchicalModel, build
from vhcr.params import GenerationParams, ModelParams, Params, SystemParams, TrainingParams
from vhcr.token_files import Conversations
from vhcr.training.loop import ALONE, adam, train_step
from vhcr.training.parallel import Workers
from vhcr.training.state import TrainState

SYSTEM = "vhcr-ud"
# The sizes of a corpus in params.yaml, and how many words to pretend there are.
PRESETS = {"toy": 600, "cornell-small": 8000, "cornell": 20000}


@dataclass(frozen=True)
class Setting:
    """What is measured."""

    name: str
    vocabulary_size: int
    model_params: ModelParams
    system: SystemParams
    training: TrainingParams
    generation: GenerationParams

    @classmethod
    def of(cls, preset: str) -> Setting:
        """A preset of params.yaml, with the system that has most parts."""
        params = Params.load()
        corpus = params.corpus(preset)
        return cls(
            preset,
            PRESETS[preset],
            corpus.model,
            params.system(SYSTEM),
            corpus.training,
            corpus.generation,
        )

    @property
    def batch_conversations(self) -> int:
        """Conversations in a batch."""
        return self.training.batch_conversations

    def describe(self, data: str) -> dict[str, object]:
        """For the record."""
        return {
            "preset": self.name,
            "model": self.model_params.model_dump(),
            "system": self.system.model_dump(),
            "vocabulary_size": self.vocabulary_size,
            "batch_conversations": self.batch_conversations,
            "data": data,
        }

    def model(self, device: str = "cpu") -> HierarchicalModel:
        """The model, always from the same seed, in training mode."""
        model = build(self.model_params, self.system, self.vocabulary_size, seed=0).to(device)
        assert isinstance(model, HierarchicalModel)
        return model.train()


class Chosen:
    """Random batches of a split, the same for all."""

    def __init__(self, data: Conversations, size: int, device: str = "cpu", seed: int = 0) -> None:
        self._data, self._size, self._device = data, size, device
        self._order = np.random.default_rng(seed).permutation(len(data))

    def indices(self, number: int) -> list[int]:
        """The conversations of batch ``number``."""
        first = number * self._size % (len(self._data) - self._size + 1)
        return [int(index) for index in self._order[first : first + self._size]]

    def packed(self, number: int, workers: Workers = ALONE) -> Batch:
        """As our models take them; of several workers, the share of this one."""
        share = workers.share(np.array(self.indices(number)))
        return self._data.batch(share).to(self._device)

    def padded(self, number: int) -> PaddedBatch:
        """As the baseline takes them."""
        return PaddedBatch.of(self._data, self.indices(number)).to(self._device)


class Fast:
    """Our training step, packing of the batch included."""

    def __init__(
        self,
        setting: Setting,
        chosen: Chosen,
        device: str = "cpu",
        precision: str = "float32",
        workers: Workers = ALONE,
    ) -> None:
        self._params = TrainingParams.model_validate(
            {**setting.training.model_dump(), "precision": precision}
        )
        self.chosen, self._workers = chosen, workers
        model = setting.model(device)
        self._state = TrainState(model, adam(model, self._params), "benchmark")

    def __call__(self, number: int) -> float:
        """One step on batch ``number``, the KL weight at its end value; its loss in nats per word."""
        self._state.position.step = self._params.kl_annealing_steps + number
        batch = self.chosen.packed(number, self._workers)
        totals = train_step(self._state, batch, self._params, seed=0, workers=self._workers)
        return totals.loss / totals.num_words


class Plain:
    """The baseline's training step, padding of the batch included."""

    def __init__(self, setting: Setting, chosen: Chosen, device: str = "cpu", *, pad_turns: bool) -> None:
        self._model = Baseline(setting.model(), pad_turns=pad_turns).to(device).train()
        self._optimiser = torch.optim.Adam(self._model.parameters(), setting.training.learning_rate)
        self.chosen = chosen

    def __call__(self, number: int) -> float:
        """One step on batch ``number``; its loss in nats per word."""
        return float(self._model.train_step(self._optimiser, self.chosen.padded(number), 1.0))
