"""bfloat16: matrix products are short, everything else is not, and training does not notice."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.training import tiny
from vhcr.models import HierarchicalModel, Noise, build
from vhcr.models.objective import loss
from vhcr.params import ModelParams
from vhcr.token_files import Conversations
from vhcr.tokenisation.specials import EOS
from vhcr.training import loop
from vhcr.training.device import set_up_cpu
from vhcr.training.loop import adam, settle_precision, train_step, validate
from vhcr.training.state import TrainState

VOCABULARY = 60
SIZES = ModelParams(
    embedding_size=24,
    encoder_size=32,
    context_size=32,
    decoder_size=40,
    conversation_encoder_size=24,
    z_utt_size=8,
    z_conv_size=8,
    encoder_layers=1,
    context_layers=1,
    decoder_layers=1,
    conversation_encoder_layers=1,
    initialisation="release",
)
SYSTEMS = ("hred", "vhred-bow", "vhcr-ud")
PRODUCTS = ("mm", "addmm", "addmm_", "_addmm_activation", "linear", "mkldnn_rnn_layer")
POINTWISE = ("tanh", "tanh_", "sigmoid", "sigmoid_", "exp", "exp_", "log", "softplus", "lerp", "_log_softmax")


def conversations(count: int, seed: int) -> Conversations:
    """Each word follows from the one before, seven times in ten."""
    draw = np.random.default_rng(seed)
    words: list[int] = []
    lengths, turns = [], []
    for _ in range(count):
        turns.append(int(draw.integers(1, 5)))
        for _ in range(turns[-1]):
            length = int(draw.integers(3, 12))
            word = int(draw.integers(4, VOCABULARY))
            for _ in range(length - 1):
                words.append(word)
                follows = 4 + (word * 7 + 3) % (VOCABULARY - 4)
                word = follows if draw.random() < 0.7 else int(draw.integers(4, VOCABULARY))
            words.append(EOS)
            lengths.append(length)
    offsets, rows = np.cumsum([0, *lengths]), np.cumsum([0, *turns])
    return Conversations([str(i) for i in range(count)], np.array(words), offsets, rows)


DATA = conversations(600, seed=1)


class Types(TorchDispatchMode):
    """Which types products and pointwise operations are computed in."""

    def __init__(self) -> None:
        super().__init__()
        self.products: set[torch.dtype] = set()
        self.pointwise: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        dtypes = {a.dtype for a in args if isinstance(a, torch.Tensor) and a.is_floating_point()}
        if name in PRODUCTS:
            self.products |= {a.dtype for a in args[-2:]}
        if name in POINTWISE:
            self.pointwise |= dtypes - {torch.float64}  # in which noise is drawn
        return func(*args, **(kwargs or {}))


def network(system: str, seed: int = 0) -> HierarchicalModel:
    return build(SIZES, tiny.system(system), VOCABULARY, seed).train()


@pytest.mark.parametrize("system", SYSTEMS)
def test_products_alone_are_short(system: str) -> None:
    """Also those of the backward pass, though autocast does not reach into our own functions."""
    model = network(system)
    with Types() as types:
        with torch.autocast("cpu", torch.bfloat16):
            output = model(DATA.batch(range(20)), Noise(0))
        loss(output, 0.5, model.system.bag_of_words_weight).backward()
    assert types.products == {torch.bfloat16}
    assert types.pointwise == {torch.float32}
    assert all(value.dtype == torch.float32 for value in output[:4])
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.dtype == torch.float32


@pytest.mark.parametrize("system", SYSTEMS)
def test_loss_and_gradients_are_those_of_float32_to_bfloat16s_rounding(system: str) -> None:
    found = []
    for short in (False, True):
        model = network(system)
        with torch.autocast("cpu", torch.bfloat16, enabled=short):
            output = model(DATA.batch(range(40)), Noise(0))
        value = loss(output, 0.5, model.system.bag_of_words_weight)
        value.backward()
        grads = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        found.append((value.detach(), torch.cat(grads), output.word_errors.detach()))
    (value, grad, errors), (short_value, short_grad, short_errors) = found
    # A bfloat16 has 8 bits: each product is off by 2**-9 of itself, either way.
    torch.testing.assert_close(short_value, value, rtol=2e-3, atol=0.0)
    assert torch.nn.functional.cosine_similarity(grad, short_grad, dim=0) > 0.999
    assert (short_errors - errors).abs().max() < 0.1
    assert (short_errors != errors).any(), "nothing was computed in bfloat16 at all"


def test_without_autocast_nothing_is_short() -> None:
    model = network("vhcr-ud")
    with Types() as types:
        loss(model(DATA.batch(range(5)), Noise(0)), 0.5, 0.0).backward()
    assert types.products == types.pointwise == {torch.float32}


class Shapes(TorchDispatchMode):
    """Row counts and inner sizes of short products."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in PRODUCTS:
            left, right = args[-2:]
            if right.dtype == torch.bfloat16:
                self.seen |= {left.shape[0], left.shape[1], right.shape[1]}
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("system", SYSTEMS)
def test_short_products_come_in_few_sizes(system: str) -> None:
    """oneDNN compiled a kernel for every batch's sizes: bfloat16 once took as long as float32."""
    model = network(system)
    own = {size for parameter in model.parameters() for size in parameter.shape}
    own |= {2 * SIZES.encoder_size, VOCABULARY, *(a + b for a in own for b in own), *(3 * a for a in own)}
    own |= {a + b + c for a in (64, 32, 40) for b in (32, 8, 0) for c in (8, 0)}
    with Shapes() as shapes:
        for first in range(0, 60, 20):
            with torch.autocast("cpu", torch.bfloat16):
                output = model(DATA.batch(range(first, first + 17)), Noise(0))
            loss(output, 0.5, model.system.bag_of_words_weight).backward()
    counts = shapes.seen - own
    assert counts
    assert all(count % 32 == 0 for count in counts), sorted(counts)


def test_auto_takes_bfloat16_where_it_pays_and_a_resumed_run_keeps_what_it_began_with(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A run may move to another machine: its numbers go on as they began; where slow, it says so."""
    params = tiny.training(precision="auto")
    for pays, chosen in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(loop, "short_products_pay", lambda *sizes, pays=pays: pays)
        state = TrainState(network("hred"), adam(network("hred"), params), "run")
        settle_precision(state, params)
        assert state.position.precision == chosen
        monkeypatch.setattr(loop, "short_products_pay", lambda *sizes, pays=pays: not pays)
        caplog.clear()
        settle_precision(state, params)
        assert state.position.precision == chosen
        assert ("slow on this machine" in caplog.text) == pays
    state.position.precision = ""
    settle_precision(state, tiny.training(precision="bfloat16"))
    assert state.position.precision == "bfloat16"


@pytest.mark.parametrize("system", ["hred", "vhcr-ud"])
def test_validation_is_computed_as_training_is(system: str) -> None:
    """In bfloat16 to its rounding, which is well below a thousandth of a nat per word here."""
    model = network(system)
    long, short = (
        validate(model, DATA, 50, 0, precision=precision)[0].per_word()["nll_per_word"]
        for precision in ("float32", "bfloat16")
    )
    assert 0.0 < abs(short - long) < 1e-3


def test_moments_of_words_that_do_not_occur_end_at_zero() -> None:
    """Left denormal, they once made Adam's step fifteen times slower."""
    threads = torch.get_num_threads()
    embedding = torch.nn.Parameter(torch.ones(64))
    optimiser = torch.optim.Adam([embedding], lr=0.0, fused=True)
    embedding.grad = torch.zeros(64)
    optimiser.step()
    moments = optimiser.state[embedding]["exp_avg"]
    smallest = torch.finfo(torch.float32).tiny
    try:
        set_up_cpu(1)
        assert torch.get_num_threads() == 1
        moments.fill_(smallest * 1.01)
        optimiser.step()
        assert (moments == 0.0).all()
        torch.set_flush_denormal(False)
        moments.fill_(smallest * 1.01)
        optimiser.step()
        assert (moments > 0.0).all(), "the test needs moments that would be denormal"
        assert (moments < smallest).all()
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(threads)


def curve(precision: str, seed: int, steps: int = 300) -> list[float]:
    torch.set_num_threads(1)
    params = tiny.training(precision=precision, learning_rate=0.003, kl_annealing_steps=100)
    model = network("vhcr-ud", seed)
    state = TrainState(model, adam(model, params), "run")
    losses = []
    for step in range(steps):
        state.position.step = step
        first = step * 20 % 600
        losses.append(train_step(state, DATA.batch(range(first, first + 20)), params, seed).loss)
    # Means of 50 steps: what a curve shows.
    words = [DATA.batch(range(f, f + 20)).num_words.sum() for f in range(0, 600, 20)]
    per_word = [value / float(words[step % 30]) for step, value in enumerate(losses)]
    return [float(np.mean(per_word[first : first + 50])) for first in range(0, steps, 50)]


@pytest.mark.slow
def test_the_loss_curve_of_300_steps_is_float32s_within_its_noise() -> None:
    """Noise: how far float32 curves lie apart that start from other weights and draw other latents."""
    seeds = range(3)
    long = np.array([curve("float32", seed) for seed in seeds])
    short = np.array([curve("bfloat16", seed) for seed in seeds])
    assert long[:, -1].mean() < 0.75 * long[:, 0].mean(), "the problem is learnt"
    noise = long.std(axis=0, ddof=1)
    # The same seed on both sides: only rounding parts them, and it stays well below the noise.
    assert (np.abs(short - long).mean(axis=0) < noise).all(), (short - long, noise)
    assert (np.abs((short - long).mean(axis=0)) < 0.01 * long.mean(axis=0)).all()
