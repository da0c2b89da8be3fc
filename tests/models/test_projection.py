"""The chunked output layer against the library's cross entropy, and what it keeps in memory."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from vhcr.models.kernels import projection
from vhcr.models.kernels.projection import OutputLayer

HIDDEN, VOCABULARY, WORDS = 4, 7, 10
# In words: one, odd (the last chunk is short), all, larger than the batch.
CHUNKS = [1, 3, 10, 64]


def layer_and_words(words: int = WORDS) -> tuple[OutputLayer, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        layer = OutputLayer(HIDDEN, VOCABULARY).double()
    hidden = torch.randn(words, HIDDEN, generator=generator, dtype=torch.float64, requires_grad=True)
    return layer, hidden, torch.randint(VOCABULARY, (words,), generator=generator)


def library(layer: OutputLayer, hidden: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(layer.linear(hidden), targets, reduction="none")


UPSTREAM = {
    "sum": torch.ones(WORDS, dtype=torch.float64),
    "mean": torch.full((WORDS,), 1.0 / WORDS, dtype=torch.float64),
    "each its own": torch.linspace(-1.0, 2.0, WORDS, dtype=torch.float64),
    "all but the last": torch.tensor([1.0] * (WORDS - 1) + [0.0], dtype=torch.float64),
    "none": torch.zeros(WORDS, dtype=torch.float64),
}


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("weights", UPSTREAM)
def test_equals_cross_entropy(weights: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projection, "MAX_LOGITS", chunk * VOCABULARY)
    layer, hidden, targets = layer_and_words()
    wanted = [hidden, layer.linear.weight, layer.linear.bias]
    errors, expected = layer(hidden, targets), library(layer, hidden, targets)
    torch.testing.assert_close(errors, expected, rtol=1e-12, atol=1e-12)
    got = torch.autograd.grad((errors * UPSTREAM[weights]).sum(), wanted)
    want = torch.autograd.grad((expected * UPSTREAM[weights]).sum(), wanted)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("weights", ["sum", "each its own"])
def test_gradients_agree_with_finite_differences(weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projection, "MAX_LOGITS", 3 * VOCABULARY)
    layer, hidden, targets = layer_and_words()
    arguments = (hidden, layer.linear.weight, layer.linear.bias)
    assert torch.autograd.gradcheck(
        lambda *given: (
            projection._ChunkedCrossEntropy.apply(*given, targets, torch.float64, True) * UPSTREAM[weights]
        ),
        arguments,
    )


def test_backward_twice_gives_the_same() -> None:
    """Gradients computed ahead are scaled, not overwritten."""
    layer, hidden, targets = layer_and_words()
    loss = layer(hidden, targets).sum() * 0.5
    first = torch.autograd.grad(loss, [hidden, layer.linear.weight], retain_graph=True)
    second = torch.autograd.grad(loss, [hidden, layer.linear.weight])
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


def test_no_words_at_all() -> None:
    """A batch of one-turn conversations has nothing to score under the release's reading.

    The backward pass once scaled its gradients by a tensor of no elements, and failed.
    """
    layer, hidden, targets = layer_and_words(words=0)
    errors = layer(hidden, targets)
    assert errors.shape == (0,)
    errors.sum().backward()
    assert layer.linear.weight.grad is not None
    assert (layer.linear.weight.grad == 0.0).all()
    assert hidden.grad is not None
    assert hidden.grad.shape == (0, HIDDEN)


def test_large_logits_do_not_overflow() -> None:
    layer, hidden, targets = layer_and_words()
    errors = layer(hidden * 1e5, targets)
    assert torch.isfinite(errors).all()
    torch.testing.assert_close(errors, library(layer, hidden * 1e5, targets))


def test_log_probs_are_the_same_distribution() -> None:
    layer, hidden, targets = layer_and_words()
    log_probs = layer.log_probs(hidden)
    torch.testing.assert_close(log_probs.exp().sum(1), torch.ones(WORDS, dtype=torch.float64))
    torch.testing.assert_close(-log_probs.gather(1, targets[:, None])[:, 0], layer(hidden, targets))


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that any operation made, backward pass included."""

    numel = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(tensor, Tensor):
                self.numel = max(self.numel, tensor.numel())
        return made


def test_logits_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the size of the logits survives the forward pass, and a chunk is all that ever is."""
    words, vocabulary, chunk = 64, 512, 4
    monkeypatch.setattr(projection, "MAX_LOGITS", chunk * vocabulary)
    layer = OutputLayer(HIDDEN, vocabulary)
    hidden = torch.randn(words, HIDDEN, generator=torch.Generator().manual_seed(0), requires_grad=True)
    targets = torch.arange(words)
    kept: list[int] = []

    def keep(saved: Tensor) -> Tensor:
        kept.append(saved.numel())
        return saved

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
        layer(hidden, targets)
    assert max(kept) <= vocabulary * HIDDEN < words * vocabulary
    for weights in (torch.ones(words), torch.arange(float(words))):
        with Largest() as seen:
            (layer(hidden, targets) * weights).sum().backward()
        # One operation makes at most one chunk of logits, or a gradient of the weights.
        assert chunk * vocabulary <= seen.numel <= max(chunk * vocabulary, vocabulary * HIDDEN)


@pytest.mark.parametrize("alike", [True, False])
@pytest.mark.parametrize("at_once", [1, 1000])
def test_short_products_are_those_of_float32_to_their_rounding(
    alike: bool, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one product over all words or in several, in softmaxes of three words at a time."""
    words, vocabulary = 300, 50
    monkeypatch.setattr(projection, "MAX_SHORT_LOGITS", at_once * vocabulary)
    monkeypatch.setattr(projection, "SOFTMAX_LOGITS", 3 * vocabulary)
    draw = torch.Generator().manual_seed(0)
    layer = OutputLayer(HIDDEN, vocabulary)
    targets = torch.randint(vocabulary, (words,), generator=draw)
    factors = torch.full((words,), 0.3) if alike else torch.linspace(0.0, 2.0, words)
    found = []
    for short in (False, True):
        hidden = torch.randn(words, HIDDEN, generator=draw.manual_seed(1), requires_grad=True)
        layer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=short):
            errors = layer(hidden, targets)
        (errors * factors).sum().backward()
        grads = (hidden.grad, layer.linear.weight.grad, layer.linear.bias.grad)
        found.append((errors.detach(), *(grad.clone() for grad in grads if grad is not None)))
    for long, low in zip(*found, strict=True):
        assert low.dtype == torch.float32
        assert 0.0 < (low - long).norm() / long.norm() < 2**-7


def test_a_word_whose_probability_is_no_float_has_an_error_all_the_same() -> None:
    """Short products take log p from a softmax, which is zero from 104 nats on."""
    layer = OutputLayer(HIDDEN, 8)
    with torch.no_grad():
        layer.linear.bias[3] = -500.0
    hidden, targets = torch.zeros(2, HIDDEN), torch.tensor([3, 2])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        short = layer(hidden, targets)
    with torch.no_grad():
        torch.testing.assert_close(short, layer(hidden, targets))
    assert short[0] > 400


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_scoring_computes_no_gradient(mode: Callable[[], AbstractContextManager[None]]) -> None:
    """Evaluation once paid for the gradients of 20,000 words, three times the work, and threw them away."""
    layer, hidden, targets = layer_and_words()

    def products() -> int:
        with torch.profiler.profile() as profile:
            errors = layer(hidden, targets)
        torch.testing.assert_close(errors, library(layer, hidden, targets))
        return sum("mm" in event.name for event in profile.events())

    assert products() >= 3
    with mode():
        assert products() == 1
