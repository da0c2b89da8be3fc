"""A GRU over packed sequences: the recurrent kernel of the models.

Sequences are laid out step by step and fall in length (see ``vhcr.batch``), so the state at a step is a
prefix of the outputs of the step before, and nothing is ever padded or copied. On a CPU the library's GRU
adds up its weight gradients step by step; ours makes one matrix product of them at the end. On a GPU the
library's kernel (cuDNN) takes the same layout. Both are held to ``torch.nn.GRU`` by the tests.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional


class _PackedGRU(torch.autograd.Function):
    """h_t = (1 - u) n + u h_{t-1} over packed steps, with input gates already computed.

    r = sigmoid(x_r + h_r), u = sigmoid(x_u + h_u), n = tanh(x_n + r h_n); gates stand in that order.
    """

    @staticmethod
    def forward(
        ctx: Any, gates: Tensor, start: Tensor, weight_hh: Tensor, bias_hh: Tensor, sizes: tuple[int, ...]
    ) -> Tensor:
        hidden = start.shape[1]
        words = gates.shape[0]
        outputs = gates.new_empty(words, hidden)
        activated = gates.new_empty(words, 3 * hidden)  # r, u, n
        recurrent_n = gates.new_empty(words, hidden)  # h_n, before the reset gate
        weight = weight_hh.t()
        state, first = start, 0
        for size in sizes:
            here = slice(first, first + size)
            state = state[:size]
            from_state = torch.addmm(bias_hh, state, weight)
            gate = activated[here]
            torch.add(gates[here, : 2 * hidden], from_state[:, : 2 * hidden], out=gate[:, : 2 * hidden])
            gate[:, : 2 * hidden].sigmoid_()
            reset, update, candidate = gate.split(hidden, dim=1)
            recurrent_n[here] = from_state[:, 2 * hidden :]
            torch.addcmul(gates[here, 2 * hidden :], reset, recurrent_n[here], out=candidate)
            candidate.tanh_()
            torch.lerp(candidate, state, update, out=outputs[here])
            state, first = outputs[here], first + size
        ctx.save_for_backward(start, weight_hh, outputs, activated, recurrent_n)
        ctx.sizes = sizes
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_outputs: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
        start, weight_hh, outputs, activated, recurrent_n = ctx.saved_tensors
        sizes: tuple[int, ...] = ctx.sizes
        hidden = start.shape[1]
        words = outputs.shape[0]
        grad_gates = torch.empty_like(activated)  # w.r.t. x_r, x_u, x_n
        grad_recurrent_n = torch.empty_like(recurrent_n)  # w.r.t. h_n
        previous = torch.empty_like(outputs)  # h_{t-1} of every word
        previous[: sizes[0]] = start[: sizes[0]]
        starts = [0]
        for size in sizes:
            starts.append(starts[-1] + size)
        for step in range(1, len(sizes)):
            before = starts[step - 1]
            previous[starts[step] : starts[step + 1]] = outputs[before : before + sizes[step]]
        # What does not depend on the gradient to come is computed for all words at once.
        reset, update, candidate = activated.split(hidden, dim=1)
        to_candidate = (1.0 - update) * (1.0 - candidate * candidate)
        to_update = (previous - candidate) * update * (1.0 - update)
        to_reset = recurrent_n * reset * (1.0 - reset)
        carried: Tensor | None = None
        grad_state = grad_outputs.new_empty(0)
        for step in reversed(range(len(sizes))):
            here = slice(starts[step], starts[step + 1])
            grad: Tensor = grad_outputs[here].clone()
            if carried is not None:
                grad[: carried.shape[0]] += carried
            gate = grad_gates[here]
            grad_n = torch.mul(grad, to_candidate[here], out=gate[:, 2 * hidden :])
            torch.mul(grad, to_update[here], out=gate[:, hidden : 2 * hidden])
            torch.mul(grad_n, to_reset[here], out=gate[:, :hidden])
            torch.mul(grad_n, reset[here], out=grad_recurrent_n[here])
            grad.mul_(update[here])
            grad.addmm_(gate[:, : 2 * hidden], weight_hh[: 2 * hidden])
            grad.addmm_(grad_recurrent_n[here], weight_hh[2 * hidden :])
            carried = grad
            grad_state = grad
        grad_start = torch.zeros_like(start)
        grad_start[: sizes[0]] = grad_state
        grad_weight = torch.empty_like(weight_hh)
        torch.mm(grad_gates[:, : 2 * hidden].t(), previous, out=grad_weight[: 2 * hidden])
        torch.mm(grad_recurrent_n.t(), previous, out=grad_weight[2 * hidden :])
        grad_bias = torch.cat([grad_gates[:, : 2 * hidden].sum(0), grad_recurrent_n.sum(0)])
        assert words == starts[-1]
        return grad_gates, grad_start, grad_weight, grad_bias, None


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

    def forward(self, inputs: Tensor, start: Tensor, sizes: tuple[int, ...]) -> Tensor:
        """Outputs [items, hidden] of packed ``inputs`` [items, input], from states [sequences, hidden].

        There may be more states than sequences in the first step: the rest never start.
        """
        return self.library(inputs, start, sizes) if inputs.is_cuda else self.packed(inputs, start, sizes)

    def packed(self, inputs: Tensor, start: Tensor, sizes: tuple[int, ...]) -> Tensor:
        """``forward`` by our own kernel."""
        gates = functional.linear(inputs, self.weight_ih, self.bias_ih)
        result: Tensor = _PackedGRU.apply(gates, start, self.weight_hh, self.bias_hh, sizes)
        return result

    def library(self, inputs: Tensor, start: Tensor, sizes: tuple[int, ...]) -> Tensor:
        """``forward`` by the library's kernel (cuDNN on a GPU)."""
        weights: list[Tensor] = [self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh]
        state = start[: sizes[0]].unsqueeze(0).to(inputs.dtype)
        outputs, _ = torch._VF.gru(
            inputs, torch.tensor(sizes), state, weights, True, 1, 0.0, self.training, False
        )
        return outputs

    def step(self, inputs: Tensor, state: Tensor) -> Tensor:
        """One step for every sequence: [sequences, input], [sequences, hidden] -> [sequences, hidden]."""
        return torch.gru_cell(inputs, state, self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)


class GRU(nn.Module):
    """Stacked layers of one direction. A state is [sequences, layers, hidden]."""

    def __init__(self, input_size: int, hidden_size: int, num_layers: int) -> None:
        super().__init__()
        sizes = [input_size] + [hidden_size] * (num_layers - 1)
        self.layers = nn.ModuleList(GRULayer(size, hidden_size) for size in sizes)
        self.state_shape = (num_layers, hidden_size)

    def forward(self, inputs: Tensor, start: Tensor, sizes: tuple[int, ...]) -> Tensor:
        """Outputs of every layer, [items, layers, hidden]; the last layer's are the network's."""
        outputs = []
        for number, layer in enumerate(self.layers):
            inputs = layer(inputs, start[:, number], sizes)
            outputs.append(inputs)
        return torch.stack(outputs, dim=1)

    def step(self, inputs: Tensor, state: Tensor) -> Tensor:
        """The next state [sequences, layers, hidden] after one more input [sequences, input]."""
        states = []
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, GRULayer)
            inputs = layer.step(inputs, state[:, number])
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

    def forward(self, inputs: Tensor, sizes: tuple[int, ...], mirrored: Tensor, last: Tensor) -> Tensor:
        """[items, input] -> [sequences, 2 hidden]: the forward final state, then the backward one.

        ``mirrored`` [items] says which item takes each one's place when sequences run backwards;
        ``last`` [sequences] is the last item of each.
        """
        start = inputs.new_zeros(sizes[0], self.hidden_size)
        ahead = back = inputs
        for number, (forwards, backwards) in enumerate(zip(self.forwards, self.backwards, strict=True)):
            if number > 0:
                inputs = torch.cat([ahead, back[mirrored]], dim=1)
            ahead = forwards(inputs, start, sizes)
            back = backwards(inputs[mirrored], start, sizes)
        return torch.cat([ahead[last], back[last]], dim=1)
