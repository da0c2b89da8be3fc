"""A GRU over packed sequences: the recurrent kernel of the models.

Sequences are laid out step by step and fall in length (see ``vhcr.batch``), so the state at a step is a
prefix of the outputs of the step before, and nothing is ever padded or copied. On a CPU the library's GRU
adds up its weight gradients step by step; ours makes one matrix product of them at the end, and computes
the gates of a word that occurs many times in a batch once. On a GPU the library's kernel (cuDNN) takes the
same layout. Both are held to ``torch.nn.GRU`` by the tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from vhcr.models.kernels.precision import (
    MANY_ROWS,
    at_least_float32,
    product_dtype,
    rounded,
    shortened,
    transposed_product,
)


def distinct(ids: Tensor) -> tuple[Tensor, Tensor | None]:
    """(values, index) with values[index] = ids, each value once; on a GPU that costs more than it saves."""
    if ids.is_cuda:
        return ids, None
    values, index = torch.unique(ids, return_inverse=True)
    return values, index


class _PackedGRU(torch.autograd.Function):
    """h_t = (1 - u) n + u h_{t-1} over packed steps.

    r = sigmoid(x_r + h_r), u = sigmoid(x_u + h_u), n = tanh(x_n + r h_n); weights stand in that order. Item i
    hears ``inputs[index[i]]``. Products are computed in ``dtype`` (by ``_Products`` or ``_ShortProducts``),
    all else in the type of the inputs.
    """

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        index: Tensor | None,
        start: Tensor,
        weight_ih: Tensor,
        weight_hh: Tensor,
        bias_ih: Tensor,
        bias_hh: Tensor,
        sizes: tuple[int, ...],
        dtype: torch.dtype,
    ) -> Tensor:
        hidden = start.shape[1]
        products: _Products | _ShortProducts
        if dtype == inputs.dtype:
            products = _Products(weight_ih, weight_hh)
        else:
            before = inputs.new_zeros(sum(sizes) + MANY_ROWS, hidden, dtype=dtype)
            products = _ShortProducts(weight_ih.to(dtype), weight_hh.to(dtype), before)
        # Gates are activated in place: what arrives from the inputs becomes r and u, and n.
        gates, candidates = products.of_inputs(inputs, bias_ih, bias_hh, index)
        outputs = candidates.new_empty(candidates.shape)
        recurrent = bias_hh[2 * hidden :].repeat(len(outputs), 1)  # h_n, before the reset gate
        steps = zip(
            *(part.split(sizes) for part in (gates, *gates.split(hidden, dim=1))),
            *(part.split(sizes) for part in (recurrent, candidates, outputs)),
            strict=True,
        )
        state = start
        remembers = bool(start.any())  # encoders start from zeros, whose products add nothing
        for gate, reset, update, own, candidate, output in steps:
            state = state[: len(output)]
            products.add_recurrent(gate, own, state, remembers)
            remembers = True
            gate.sigmoid_()
            candidate.addcmul_(reset, own).tanh_()
            state = torch.lerp(candidate, state, update, out=output)
        ctx.save_for_backward(inputs, index, start, gates, candidates, recurrent, outputs, *products.kept())
        ctx.sizes, ctx.dtype = sizes, dtype
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        inputs, index, start, gates, candidates, recurrent, outputs, *kept = ctx.saved_tensors
        sizes: tuple[int, ...] = ctx.sizes
        hidden = start.shape[1]
        products = (_Products if ctx.dtype == inputs.dtype else _ShortProducts)(*kept)
        before = [start, *outputs.split(sizes)]
        previous = torch.cat([state[:size] for state, size in zip(before, sizes, strict=False)])  # h_{t-1}
        # What does not depend on the gradient to come is computed for all items at once.
        reset, update = gates.split(hidden, dim=1)
        to_candidate = candidates.square().neg_().add_(1.0)
        to_candidate.addcmul_(to_candidate, update, value=-1.0)  # (1 - n^2) (1 - u)
        grad_gates = torch.sub(1.0, gates).mul_(gates)  # w.r.t. x_r, x_u
        to_reset, to_update = grad_gates.split(hidden, dim=1)
        to_reset.mul_(recurrent)  # h_n r (1 - r)
        to_update.mul_(previous - candidates)  # (h - n) u (1 - u)
        grad_candidates = torch.empty_like(outputs)  # w.r.t. x_n
        grad_recurrent = torch.empty_like(outputs)  # w.r.t. h_n
        grad_start = torch.zeros_like(start)
        grads = grad_outputs.clone().split(sizes)  # of each step's states; the step after adds its part
        steps = zip(
            grads,
            [grad_start, *grads],
            *(part.split(sizes) for part in (to_candidate, to_reset, to_update, reset, update)),
            *(part.split(sizes) for part in (grad_gates, grad_candidates, grad_recurrent)),
            strict=False,
        )
        for grad, earlier, candidate, to_r, to_u, r, u, grad_gate, grad_n, grad_own in reversed(list(steps)):
            torch.mul(grad, candidate, out=grad_n)
            torch.mul(grad_n, r, out=grad_own)
            to_u.mul_(grad)
            to_r.mul_(grad_n)
            back = earlier[: len(grad)].addcmul_(grad, u)
            products.add_back(back, grad_gate, grad_own)

        grad_hh = products.of_recurrent_weights(grad_gates, grad_recurrent, previous)
        bias = grad_gates.sum(0)
        grad_bias_hh = torch.cat([bias, grad_recurrent.sum(0)])
        grad_bias_ih = torch.cat([bias, grad_candidates.sum(0)])
        grad_x = [_gather_back(grad, index, len(inputs)) for grad in (grad_gates, grad_candidates)]
        grad_inputs, grad_ih = products.of_input_weights(grad_x, inputs, ctx.needs_input_grad[0])
        return grad_inputs, None, grad_start, grad_ih, grad_hh, grad_bias_ih, grad_bias_hh, None, None


class _Products:
    """The matrix products of the recurrence, in the type of its inputs; BLAS adds them to what is there."""

    def __init__(self, weight_ih: Tensor, weight_hh: Tensor) -> None:
        hidden = weight_hh.shape[1]
        self.weights = (weight_ih, weight_hh)
        self.two = 2 * hidden
        self.of_input, self.of_state = (
            weight_ih.split([self.two, hidden]),
            weight_hh.split([self.two, hidden]),
        )

    def kept(self) -> tuple[Tensor, ...]:
        """What the backward pass makes these products from again."""
        return self.weights

    def of_inputs(
        self, inputs: Tensor, bias_ih: Tensor, bias_hh: Tensor, index: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """x_r and x_u side by side, and x_n."""
        of_gates, of_candidate = self.of_input
        gates = _linear(inputs, of_gates.t(), bias_ih[: self.two] + bias_hh[: self.two], index)
        return gates, _linear(inputs, of_candidate.t(), bias_ih[self.two :], index)

    def add_recurrent(self, gates: Tensor, own: Tensor, state: Tensor, remembers: bool) -> None:
        """gates += h_r and h_u, own += h_n, of the step that ``state`` begins."""
        if remembers:
            gates.addmm_(state, self.of_state[0].t())
            own.addmm_(state, self.of_state[1].t())

    def add_back(self, grad_state: Tensor, grad_gates: Tensor, grad_own: Tensor) -> None:
        """grad_state += its share of a step's gradients."""
        grad_state.addmm_(grad_gates, self.of_state[0])
        grad_state.addmm_(grad_own, self.of_state[1])

    def of_recurrent_weights(self, grad_gates: Tensor, grad_own: Tensor, previous: Tensor) -> Tensor:
        """The gradient of ``weight_hh``, one product over all steps."""
        return torch.cat([torch.mm(grad_gates.t(), previous), torch.mm(grad_own.t(), previous)])

    def of_input_weights(
        self, grads: list[Tensor], inputs: Tensor, wanted: bool
    ) -> tuple[Tensor | None, Tensor]:
        """The gradients of the inputs, if ``wanted``, and of ``weight_ih``."""
        grad_inputs: Tensor | None = None
        if wanted:
            grad_inputs = torch.mm(grads[0], self.of_input[0]).addmm_(grads[1], self.of_input[1])
        return grad_inputs, torch.cat([torch.mm(grad.t(), inputs) for grad in grads])


class _ShortProducts:
    """The same in a short type, on rounded row counts (see ``precision``): one product where BLAS takes two.

    States and gradients of a step are converted into ``before`` and ``grads``, which hold those of all
    steps, one after another. A step's product then reads a few rows too many, of the step after it; what
    comes of those is not used.
    """

    def __init__(self, weight_ih: Tensor, weight_hh: Tensor, before: Tensor) -> None:
        self.of_input, self.of_state = weight_ih, weight_hh
        self.two = 2 * weight_hh.shape[1]
        self.before = before  # [items and some, hidden]: the state before each item
        self.num_items = len(before) - MANY_ROWS
        self.first = 0
        self.grads: Tensor | None = None  # [items and some, 3 hidden]: w.r.t. h_r, h_u, h_n

    def kept(self) -> tuple[Tensor, ...]:
        """As ``_Products.kept``."""
        return self.of_input, self.of_state, self.before

    def of_inputs(
        self, inputs: Tensor, bias_ih: Tensor, bias_hh: Tensor, index: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """As ``_Products.of_inputs``."""
        two = self.two
        heard = torch.mm(shortened(inputs, self.before.dtype), self.of_input.t())[: len(inputs)]
        if index is not None:
            heard = heard.index_select(0, index)
        both = heard.to(inputs.dtype)
        both += torch.cat([bias_ih[:two] + bias_hh[:two], bias_ih[two:]])
        return both[:, :two], both[:, two:]

    def add_recurrent(self, gates: Tensor, own: Tensor, state: Tensor, remembers: bool) -> None:
        """As ``_Products.add_recurrent``."""
        size = len(state)
        if remembers:
            rows = self.before[self.first : self.first + rounded(size)]
            rows[:size] = state
            product = torch.mm(rows, self.of_state.t())[:size]
            gates += product[:, : self.two]
            own += product[:, self.two :]
        self.first += size

    def add_back(self, grad_state: Tensor, grad_gates: Tensor, grad_own: Tensor) -> None:
        """As ``_Products.add_back``; steps come last first."""
        if self.grads is None:
            self.first = self.num_items
            self.grads = self.before.new_zeros(len(self.before), len(self.of_state))
        size = len(grad_gates)
        self.first -= size
        rows = self.grads[self.first : self.first + rounded(size)]
        rows[:size, : self.two] = grad_gates
        rows[:size, self.two :] = grad_own
        grad_state += torch.mm(rows, self.of_state)[:size]

    def of_recurrent_weights(self, grad_gates: Tensor, grad_own: Tensor, previous: Tensor) -> Tensor:  # noqa: ARG002
        """As ``_Products.of_recurrent_weights``, from what was converted step by step."""
        assert self.grads is not None
        items = rounded(self.num_items)
        return transposed_product(self.grads[:items], self.before[:items]).to(previous.dtype)

    def of_input_weights(
        self, grads: list[Tensor], inputs: Tensor, wanted: bool
    ) -> tuple[Tensor | None, Tensor]:
        """As ``_Products.of_input_weights``."""
        both = shortened(torch.cat(grads, dim=1), self.before.dtype)
        grad_inputs: Tensor | None = None
        if wanted:
            grad_inputs = torch.mm(both, self.of_input)[: len(inputs)].to(inputs.dtype)
        return grad_inputs, transposed_product(both, shortened(inputs, self.before.dtype)).to(inputs.dtype)


def _linear(inputs: Tensor, weight: Tensor, bias: Tensor, index: Tensor | None) -> Tensor:
    """inputs[index] weight + bias, computed once per row of ``inputs``."""
    result = torch.addmm(bias, inputs, weight)
    return result if index is None else result.index_select(0, index)


def _gather_back(grad: Tensor, index: Tensor | None, size: int) -> Tensor:
    """The gradient of ``inputs`` given that of ``inputs[index]``."""
    return grad if index is None else grad.new_zeros(size, grad.shape[1]).index_add_(0, index, grad)


def _library_gru(
    inputs: Tensor, start: Tensor, sizes: tuple[int, ...], weights: Sequence[Sequence[Tensor]]
) -> Tensor:
    """Outputs of one layer of ``torch.nn.GRU`` on packed ``inputs``; ``weights`` holds each direction's.

    cuDNN wants the parameters of a layer in one piece, matrices first, and copies them with a warning where
    they are not: so they are put together here.
    """
    matrices = [weight for direction in weights for weight in direction[:2]]
    ordered = [*matrices, *(bias for direction in weights for bias in direction[2:])]
    flat = torch.cat([weight.reshape(-1) for weight in ordered])
    pieces = [
        piece.view_as(w) for piece, w in zip(flat.split([w.numel() for w in ordered]), ordered, strict=True)
    ]
    count = len(matrices)
    grouped = [
        [*pieces[first : first + 2], *pieces[count + first : count + first + 2]]
        for first in range(0, count, 2)
    ]
    with torch.autocast(inputs.device.type, enabled=False):
        outputs, _ = torch._VF.gru(
            inputs.contiguous(),
            torch.tensor(sizes),
            start.contiguous(),
            [weight for direction in grouped for weight in direction],
            True,  # has biases
            1,  # layers
            0.0,  # dropout
            torch.is_grad_enabled(),  # cuDNN keeps what a backward pass needs only when told
            len(weights) == 2,
        )
    return outputs


class GRULayer(nn.Module):
    """One direction of one layer; parameters are laid out as in ``torch.nn.GRU``.

    Recurrent weights start orthogonal and the hidden half of the update gate's bias at 2, as in the
    authors' program, so that states are remembered at first; the rest starts as in ``torch.nn.GRU``.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        like = [weights.detach() for weights in nn.GRU(input_size, hidden_size).parameters()]
        self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh = map(nn.Parameter, like)
        with torch.no_grad():
            for gate in self.weight_hh.split(hidden_size):
                nn.init.orthogonal_(gate)
            self.bias_hh[hidden_size : 2 * hidden_size] = 2.0

    def forward(
        self, inputs: Tensor, start: Tensor, sizes: tuple[int, ...], index: Tensor | None = None
    ) -> Tensor:
        """Outputs [items, hidden] of packed ``inputs`` [items, input], from states [sequences, hidden].

        With ``index`` [items] item i hears ``inputs[index[i]]``. There may be more states than sequences in
        the first step: the rest never start.
        """
        run = self.library if inputs.is_cuda else self.packed
        return run(inputs, start, sizes, index)

    def packed(
        self, inputs: Tensor, start: Tensor, sizes: tuple[int, ...], index: Tensor | None = None
    ) -> Tensor:
        """``forward`` by our own kernel."""
        inputs, start, dtype = at_least_float32(inputs), at_least_float32(start), product_dtype(inputs)
        weights = (self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)
        with torch.autocast(inputs.device.type, enabled=False):
            result: Tensor = _PackedGRU.apply(inputs, index, start, *weights, sizes, dtype)
        return result

    def library(
        self, inputs: Tensor, start: Tensor, sizes: tuple[int, ...], index: Tensor | None = None
    ) -> Tensor:
        """``forward`` by the library's kernel (cuDNN on a GPU), whose states are in the short type too."""
        dtype = product_dtype(inputs)
        heard = inputs if index is None else inputs[index]
        state = start[: sizes[0]].unsqueeze(0)
        outputs = _library_gru(heard.to(dtype), state.to(dtype), sizes, [self.weights(dtype)])
        return at_least_float32(outputs)

    def weights(self, dtype: torch.dtype) -> list[Tensor]:
        """The parameters in ``dtype``, as the library takes them."""
        return [w.to(dtype) for w in (self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)]

    def step(self, inputs: Tensor, state: Tensor, index: Tensor | None = None) -> Tensor:
        """One step for every sequence: [sequences, input], [sequences, hidden] -> [sequences, hidden].

        With ``index`` [sequences] sequence i hears ``inputs[index[i]]``.
        """
        if index is None:
            return torch.gru_cell(inputs, state, self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)
        two = 2 * self.hidden_size
        heard = _linear(inputs, self.weight_ih.t(), self.bias_ih, index)
        own = torch.addmm(self.bias_hh, state, self.weight_hh.t())
        reset, update = (heard[:, :two] + own[:, :two]).sigmoid_().split(self.hidden_size, dim=1)
        candidate = torch.addcmul(heard[:, two:], reset, own[:, two:]).tanh_()
        return torch.lerp(candidate, state, update)


class GRU(nn.Module):
    """Stacked layers of one direction. A state is [sequences, layers, hidden]."""

    def __init__(self, input_size: int, hidden_size: int, num_layers: int) -> None:
        super().__init__()
        sizes = [input_size] + [hidden_size] * (num_layers - 1)
        self.layers = nn.ModuleList(GRULayer(size, hidden_size) for size in sizes)
        self.state_shape = (num_layers, hidden_size)

    def forward(
        self, inputs: Tensor, start: Tensor, sizes: tuple[int, ...], index: Tensor | None = None
    ) -> Tensor:
        """Outputs of every layer, [items, layers, hidden]; the last layer's are the network's.

        With ``index`` [items] item i hears ``inputs[index[i]]``.
        """
        outputs = []
        for number, layer in enumerate(self.layers):
            inputs = layer(inputs, start[:, number], sizes, index if number == 0 else None)
            outputs.append(inputs)
        return torch.stack(outputs, dim=1) if len(outputs) > 1 else inputs.unsqueeze(1)

    def step(self, inputs: Tensor, state: Tensor, index: Tensor | None = None) -> Tensor:
        """The next state [sequences, layers, hidden] after one more input [sequences, input].

        With ``index`` [sequences] sequence i hears ``inputs[index[i]]``.
        """
        states = []
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, GRULayer)
            inputs = layer.step(inputs, state[:, number], index if number == 0 else None)
            states.append(inputs)
        return torch.stack(states, dim=1)


class BidirectionalGRU(nn.Module):
    """Stacked bidirectional layers that summarise each sequence by both final states of the last layer."""

    def __init__(self, input_size: int, hidden_size: int, num_layers: int) -> None:
        super().__init__()
        sizes = [input_size] + [2 * hidden_size] * (num_layers - 1)
        self.forwards = nn.ModuleList(GRULayer(size, hidden_size) for size in sizes)
        self.backwards = nn.ModuleList(GRULayer(size, hidden_size) for size in sizes)
        self.hidden_size = hidden_size

    def forward(
        self,
        inputs: Tensor,
        sizes: tuple[int, ...],
        mirrored: Tensor,
        last: Tensor,
        index: Tensor | None = None,
    ) -> Tensor:
        """[items, input] -> [sequences, 2 hidden]: the forward final state, then the backward one.

        ``mirrored`` [items] says which item takes each one's place when sequences run backwards;
        ``last`` [sequences] is the last item of each. With ``index`` [items] item i hears
        ``inputs[index[i]]``.
        """
        run = self.library if inputs.is_cuda else self.packed
        return run(inputs, sizes, mirrored, last, index)

    def packed(
        self,
        inputs: Tensor,
        sizes: tuple[int, ...],
        mirrored: Tensor,
        last: Tensor,
        index: Tensor | None = None,
    ) -> Tensor:
        """``forward`` by our own kernel."""
        start = inputs.new_zeros(sizes[0], self.hidden_size)
        ahead = back = inputs
        for number, (forwards, backwards) in enumerate(zip(self.forwards, self.backwards, strict=True)):
            if number > 0:
                inputs, index = torch.cat([ahead, back[mirrored]], dim=1), None
            ahead = forwards(inputs, start, sizes, index)
            if index is None:
                back = backwards(inputs[mirrored], start, sizes)
            else:
                back = backwards(inputs, start, sizes, index[mirrored])
        return torch.cat([ahead[last], back[last]], dim=1)

    def library(
        self,
        inputs: Tensor,
        sizes: tuple[int, ...],
        mirrored: Tensor,  # noqa: ARG002
        last: Tensor,
        index: Tensor | None = None,
    ) -> Tensor:
        """``forward`` by the library's kernel, both directions at once."""
        dtype = product_dtype(inputs)
        outputs = inputs if index is None else inputs[index]
        start = outputs.new_zeros(2, sizes[0], self.hidden_size, dtype=dtype)
        for forwards, backwards in zip(self.forwards, self.backwards, strict=True):
            assert isinstance(forwards, GRULayer)
            assert isinstance(backwards, GRULayer)
            weights = [forwards.weights(dtype), backwards.weights(dtype)]
            outputs = _library_gru(outputs.to(dtype), start, sizes, weights)
        ahead, back = outputs.split(self.hidden_size, dim=1)
        # The library runs backwards in place: the last state of that direction lies at the first item.
        return at_least_float32(torch.cat([ahead[last], back[: sizes[0]]], dim=1))
