"""The output layer: -log p(word) over the vocabulary, without ever holding the logits of a whole batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from vhcr.models.precision import add_product, at_least_float32, product_dtype

# Logits held at a time; a chunk of 2**23 floats is 32 MiB. Smaller chunks add up the weights' gradient too
# often, larger ones gain nothing and leave the cache.
MAX_LOGITS = 2**23
ON_GPU = 8  # times as many there: the same trade with another ratio of bandwidth to arithmetic


class _ChunkedCrossEntropy(torch.autograd.Function):
    """-log softmax(h W' + b)[target] per word, chunk by chunk.

    The gradient is computed while the logits of a chunk are there, as if every word counted once. The
    backward pass scales it, which is exact when all words count alike (a mean or a sum, the usual case);
    otherwise it computes the logits again with the true weights. Without ``wanted`` there is no gradient to
    come, and none is computed. Products are computed in ``dtype``, all
    else in the type of the hidden states.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor,
        targets: Tensor,
        chunk: int,
        dtype: torch.dtype,
        wanted: bool,
    ) -> Tensor:
        errors = hidden.new_empty(hidden.shape[0])
        grad_hidden = torch.empty_like(hidden) if wanted else None
        grad_weight = torch.zeros_like(weight) if wanted else None
        grad_bias = torch.zeros_like(bias) if wanted else None
        heard, rows = hidden.to(dtype), weight.to(dtype)
        buffer = hidden.new_empty(min(chunk, hidden.shape[0]), weight.shape[0])
        for first in range(0, hidden.shape[0], chunk):
            here = slice(first, first + chunk)
            log_probs = _log_probs(heard[here], rows, bias, buffer)
            errors[here] = log_probs.gather(1, targets[here, None]).squeeze(1).neg_()
            if grad_hidden is not None and grad_weight is not None and grad_bias is not None:
                grad = _softmax_less_target(log_probs, targets[here])
                grad_bias += grad.sum(0)
                grad = grad.to(dtype)
                grad_hidden[here] = torch.mm(grad, rows)
                add_product(grad_weight, grad.t(), heard[here])
        ctx.chunk, ctx.dtype = chunk, dtype
        ctx.save_for_backward(hidden, weight, bias, targets, grad_hidden, grad_weight, grad_bias)
        return errors

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_errors: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, grad_hidden, grad_weight, grad_bias = ctx.saved_tensors
        nothing = (None,) * 4
        if len(grad_errors) == 0:  # what is there is zero already
            return grad_hidden, grad_weight, grad_bias, *nothing
        first_grad = grad_errors[:1]
        if bool((grad_errors == first_grad).all()):
            return grad_hidden * first_grad, grad_weight * first_grad, grad_bias * first_grad, *nothing
        grad_weight, grad_bias = torch.zeros_like(weight), torch.zeros_like(bias)
        heard, rows = hidden.to(ctx.dtype), weight.to(ctx.dtype)
        buffer = hidden.new_empty(min(ctx.chunk, hidden.shape[0]), weight.shape[0])
        for first in range(0, hidden.shape[0], ctx.chunk):
            here = slice(first, first + ctx.chunk)
            grad = _softmax_less_target(_log_probs(heard[here], rows, bias, buffer), targets[here])
            grad *= grad_errors[here, None]
            grad_bias += grad.sum(0)
            add_product(grad_weight, grad.to(ctx.dtype).t(), heard[here])
        return grad_hidden * grad_errors[:, None], grad_weight, grad_bias, *nothing


def _log_probs(hidden: Tensor, weight: Tensor, bias: Tensor, buffer: Tensor) -> Tensor:
    """log softmax(h W' + b) of one chunk, in the first rows of ``buffer``."""
    logits = buffer[: len(hidden)]
    if weight.dtype == buffer.dtype:
        torch.addmm(bias, hidden, weight.t(), out=logits)
    else:
        torch.add(torch.mm(hidden, weight.t()), bias, out=logits)
    # In place: each row is read whole before it is written.
    return torch.log_softmax(logits, 1, out=logits)


def _softmax_less_target(log_probs: Tensor, targets: Tensor) -> Tensor:
    """d error / d logits, written over ``log_probs``."""
    softmax = log_probs.exp_()
    return softmax.scatter_add_(1, targets[:, None], softmax.new_full((len(targets), 1), -1.0))


class OutputLayer(nn.Module):
    """softmax(W h + b) over the vocabulary; not tied to the input embedding."""

    def __init__(self, hidden_size: int, vocabulary_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden_size, vocabulary_size)

    def forward(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """-log p(target), in nats: [words, hidden], [words] -> [words]."""
        at_once = MAX_LOGITS * (ON_GPU if hidden.is_cuda else 1)
        chunk = max(1, at_once // self.linear.out_features)
        chunk = -(-len(hidden) // max(1, -(-len(hidden) // chunk)))  # as few chunks, but of like size
        hidden, dtype = at_least_float32(hidden), product_dtype(hidden)
        # Asked here: within the function gradients are always off, and what it is told of its inputs is
        # that they could have some.
        wanted = torch.is_grad_enabled() and (hidden.requires_grad or self.linear.weight.requires_grad)
        with torch.autocast(hidden.device.type, enabled=False):
            errors: Tensor = _ChunkedCrossEntropy.apply(
                hidden, self.linear.weight, self.linear.bias, targets, max(1, chunk), dtype, wanted
            )
        return errors

    def log_probs(self, hidden: Tensor) -> Tensor:
        """log p of every word: [..., hidden] -> [..., vocab]."""
        return functional.log_softmax(at_least_float32(self.linear(hidden)), dim=-1)
