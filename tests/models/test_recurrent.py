"""Our recurrent kernels against torch.nn.GRU, forward and gradient, in float64."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from vhcr.models.kernels.recurrent import GRU, BidirectionalGRU, GRULayer, _PackedGRU

# Sequences alive per step: usual, one step, one sequence, all equal, and a long tail.
PATTERNS = [(4, 3, 3, 1), (5,), (1, 1, 1, 1), (3, 3, 3), (6, 2, 1, 1, 1, 1, 1)]
INPUT, HIDDEN = 3, 4


def copy_weights(layers: Iterable[GRULayer], library: nn.GRU, suffix: str = "") -> None:
    with torch.no_grad():
        for number, layer in enumerate(layers):
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                getattr(layer, name).copy_(getattr(library, f"{name}_l{number}{suffix}"))


def randn(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)


def close(actual: Tensor | None, expected: Tensor | None) -> None:
    assert actual is not None
    assert expected is not None
    torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-12)


def seeded(module: type[nn.Module], *arguments: int, **options: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(8)
        return module(*arguments, **options).double()


def offsets(sizes: tuple[int, ...]) -> list[int]:
    return [sum(sizes[:step]) for step in range(len(sizes))]


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("sizes", PATTERNS)
def test_gru_equals_the_library(sizes: tuple[int, ...], layers: int) -> None:
    ours, library = seeded(GRU, INPUT, HIDDEN, layers), seeded(nn.GRU, INPUT, HIDDEN, num_layers=layers)
    assert isinstance(ours, GRU)
    assert isinstance(library, nn.GRU)
    copy_weights((layer for layer in ours.layers if isinstance(layer, GRULayer)), library)
    inputs, start = randn(0, sum(sizes), INPUT), randn(1, sizes[0], layers, HIDDEN)
    upstream = randn(2, sum(sizes), HIDDEN).detach()

    outputs = ours(inputs, start, sizes)
    assert outputs.shape == (sum(sizes), layers, HIDDEN)
    ours_grads = torch.autograd.grad((outputs[:, -1] * upstream).sum(), [inputs, start, *ours.parameters()])

    packed = PackedSequence(inputs, torch.tensor(sizes))
    expected, last = library(packed, start.transpose(0, 1))
    expected_grads = torch.autograd.grad(
        (expected.data * upstream).sum(), [inputs, start, *library.parameters()]
    )

    close(outputs[:, -1], expected.data)
    for got, want in zip(ours_grads, expected_grads, strict=True):
        close(got, want)
    # The final state of every layer too: f_cxt goes on from it when a conversation is continued.
    for sequence in range(sizes[0]):
        length = sum(size > sequence for size in sizes)
        close(outputs[offsets(sizes)[length - 1] + sequence], last[:, sequence])


@pytest.mark.parametrize("sizes", PATTERNS)
def test_gradients_agree_with_finite_differences(sizes: tuple[int, ...]) -> None:
    index = torch.arange(sum(sizes)) % 3  # inputs that several items hear
    inputs, *others = (
        randn(3, 3, INPUT), randn(4, sizes[0], HIDDEN), randn(5, 3 * HIDDEN, INPUT),
        randn(6, 3 * HIDDEN, HIDDEN), randn(7, 3 * HIDDEN), randn(8, 3 * HIDDEN),
    )  # fmt: skip
    assert torch.autograd.gradcheck(
        lambda first, *rest: _PackedGRU.apply(first, index, *rest, sizes, torch.float64), (inputs, *others)
    )


@pytest.mark.parametrize("sizes", PATTERNS)
@pytest.mark.parametrize("both_ways", [False, True])
def test_inputs_heard_many_times_are_inputs_repeated(sizes: tuple[int, ...], both_ways: bool) -> None:
    """Gates of a word that occurs many times are computed once; nothing else may change."""
    index = torch.arange(sum(sizes)) % 3
    table = randn(0, 3, INPUT)
    if both_ways:
        network = seeded(BidirectionalGRU, INPUT, HIDDEN, 2)
        length = len(sizes)
        rectangle = (sizes[0],) * length
        index = torch.arange(sizes[0] * length) % 3
        mirrored = torch.arange(length * sizes[0]).view(length, -1).flip(0).flatten()
        rest: tuple[Any, ...] = (rectangle, mirrored, torch.arange(sizes[0]) + (length - 1) * sizes[0])
    else:
        network, rest = seeded(GRULayer, INPUT, HIDDEN), (randn(1, sizes[0], HIDDEN), sizes)
    shared, repeated = network(table, *rest, index), network(table[index], *rest)
    close(shared, repeated)
    upstream = randn(2, *shared.shape).detach()
    wanted = [table, *network.parameters()]
    got = torch.autograd.grad((shared * upstream).sum(), wanted)
    want = torch.autograd.grad((repeated * upstream).sum(), wanted)
    for a, b in zip(got, want, strict=True):
        close(a, b)


@pytest.mark.parametrize("sizes", PATTERNS)
def test_the_librarys_kernel_takes_the_same_layout(sizes: tuple[int, ...]) -> None:
    """What a GPU runs, here on the CPU: one direction, and both at once over two layers."""
    one = seeded(GRULayer, INPUT, HIDDEN)
    assert isinstance(one, GRULayer)
    inputs, start = randn(0, sum(sizes), INPUT), randn(1, sizes[0] + 1, HIDDEN)
    close(one.library(inputs, start, sizes), one.packed(inputs, start, sizes))
    both = seeded(BidirectionalGRU, INPUT, HIDDEN, 2)
    assert isinstance(both, BidirectionalGRU)
    begin = offsets(sizes)
    lengths = [sum(size > sequence for size in sizes) for sequence in range(sizes[0])]
    mirrored = torch.tensor(
        [begin[lengths[s] - 1 - step] + s for step, size in enumerate(sizes) for s in range(size)]
    )
    last = torch.tensor([begin[length - 1] + s for s, length in enumerate(lengths)])
    upstream = randn(2, sizes[0], 2 * HIDDEN).detach()
    results = []
    for kernel in (both.library, both.packed):
        output = kernel(inputs, sizes, mirrored, last)
        results.append(
            [output, *torch.autograd.grad((output * upstream).sum(), [inputs, *both.parameters()])]
        )
    for a, b in zip(*results, strict=True):
        close(a, b)


@pytest.mark.parametrize("layers", [1, 2])
def test_states_of_sequences_that_never_start_get_no_gradient(layers: int) -> None:
    """f_cxt holds a start for every conversation, also for those of one turn, which it never runs."""
    ours = seeded(GRU, INPUT, HIDDEN, layers)
    start = randn(1, 5, layers, HIDDEN)
    ours(randn(0, 3, INPUT), start, (2, 1)).sum().backward()
    assert start.grad is not None
    assert (start.grad[:2] != 0.0).all()
    assert (start.grad[2:] == 0.0).all()


@pytest.mark.parametrize("spare", [0, 2])
@pytest.mark.parametrize("sizes", PATTERNS)
def test_both_kernels_agree(sizes: tuple[int, ...], spare: int) -> None:
    """The one a GPU takes runs here too; it once refused a batch with a conversation of one turn.

    f_cxt then holds more starting states than there are sequences in its first step.
    """
    layer = seeded(GRULayer, INPUT, HIDDEN)
    assert isinstance(layer, GRULayer)
    inputs, start = randn(0, sum(sizes), INPUT), randn(1, sizes[0] + spare, HIDDEN)
    upstream = randn(2, sum(sizes), HIDDEN).detach()
    results = []
    for kernel in (layer.packed, layer.library):
        outputs = kernel(inputs, start, sizes)
        wanted = [inputs, start, *layer.parameters()]
        results.append([outputs, *torch.autograd.grad((outputs * upstream).sum(), wanted)])
    for ours, library in zip(*results, strict=True):
        close(ours, library)


def test_inputs_are_not_modified() -> None:
    sizes = (3, 2)
    ours = seeded(GRU, INPUT, HIDDEN, 1)
    inputs, start = randn(0, 5, INPUT), randn(1, 3, 1, HIDDEN)
    before = [inputs.detach().clone(), start.detach().clone()]
    outputs = ours(inputs, start, sizes)
    kept = outputs.detach().clone()
    outputs.sum().backward()
    assert torch.equal(inputs.detach(), before[0])
    assert torch.equal(start.detach(), before[1])
    assert torch.equal(outputs.detach(), kept)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("lengths", [[4, 3, 3, 1], [1], [5], [2, 2, 2]])
def test_bidirectional_gru_equals_the_library(lengths: list[int], layers: int) -> None:
    ours = seeded(BidirectionalGRU, INPUT, HIDDEN, layers)
    library = seeded(nn.GRU, INPUT, HIDDEN, num_layers=layers, bidirectional=True)
    assert isinstance(ours, BidirectionalGRU)
    assert isinstance(library, nn.GRU)
    copy_weights((layer for layer in ours.forwards if isinstance(layer, GRULayer)), library)
    copy_weights((layer for layer in ours.backwards if isinstance(layer, GRULayer)), library, "_reverse")
    sizes = tuple(sum(length > step for length in lengths) for step in range(lengths[0]))
    begin = offsets(sizes)
    mirrored = torch.tensor(
        [begin[lengths[s] - 1 - step] + s for step in range(len(sizes)) for s in range(sizes[step])]
    )
    last = torch.tensor([begin[length - 1] + s for s, length in enumerate(lengths)])
    inputs = randn(0, sum(sizes), INPUT)
    upstream = randn(2, len(lengths), 2 * HIDDEN).detach()

    output = ours(inputs, sizes, mirrored, last)
    _, final = library(PackedSequence(inputs, torch.tensor(sizes)))
    expected = torch.cat([final[-2], final[-1]], dim=1)
    close(output, expected)
    got = torch.autograd.grad((output * upstream).sum(), inputs)
    want = torch.autograd.grad((expected * upstream).sum(), inputs)
    close(got[0], want[0])


@pytest.mark.parametrize("layers", [1, 2])
def test_steps_equal_the_unrolled_network(layers: int) -> None:
    ours = seeded(GRU, INPUT, HIDDEN, layers)
    assert isinstance(ours, GRU)
    inputs, state = randn(0, 4 * 5, INPUT), randn(1, 4, layers, HIDDEN)
    unrolled = ours(inputs, state, (4,) * 5)
    for step in range(5):
        here = slice(4 * step, 4 * step + 4)
        state = ours.step(inputs[here], state)
        close(state, unrolled[here])


def test_recurrent_weights_start_orthogonal_and_the_update_gate_open() -> None:
    """As the authors' program starts them: states are remembered at first."""
    layer = seeded(GRULayer, 6, 5)
    assert isinstance(layer, GRULayer)
    for gate in layer.weight_hh.detach().split(5):
        torch.testing.assert_close(gate @ gate.t(), torch.eye(5, dtype=torch.float64), atol=1e-5, rtol=0.0)
    assert (layer.bias_hh[5:10] == 2.0).all()
    assert (layer.bias_hh[:5] != 2.0).all()
    assert (layer.bias_hh[10:] != 2.0).all()


@pytest.mark.parametrize("layers", [1, 2])
def test_steps_that_hear_the_same_are_steps_repeated(layers: int) -> None:
    ours = seeded(GRU, INPUT, HIDDEN, layers)
    assert isinstance(ours, GRU)
    inputs, state, index = randn(0, 2, INPUT), randn(1, 5, layers, HIDDEN), torch.tensor([1, 0, 1, 1, 0])
    close(ours.step(inputs, state, index), ours.step(inputs[index], state))


def test_a_start_from_zeros_counts_for_whom_it_holds() -> None:
    """The first product is left out where all start from zeros; a single one that does not needs it."""
    layer = seeded(GRULayer, INPUT, HIDDEN)
    assert isinstance(layer, GRULayer)
    inputs, start = randn(0, 4, INPUT), torch.zeros(2, HIDDEN, dtype=torch.float64)
    from_zeros = layer(inputs, start, (2, 2))
    close(from_zeros[:2], layer.step(inputs[:2], start))
    start[1, 2] = 0.5
    mixed = layer(inputs, start, (2, 2))
    close(mixed[:2], layer.step(inputs[:2], start))
    assert torch.equal(mixed[0], from_zeros[0])
    assert not torch.equal(mixed[1], from_zeros[1])
