"""The output layer: -log p(word) over the vocabulary, without ever holding the logits of a whole batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from vhcr.models.kernels.precision import (
    MANY_ROWS,
    Linear,
    at_least_float32,
    product_dtype,
    shortened,
    transposed_product,
)

# Logits held at a time; a chunk of 2**23 floats is 32 MiB. Smaller chunks add up the weights' gradient too
# often, larger ones gain nothing and leave the cache.
MAX_LOGITS = 2**23
ON_GPU = 8  # times as many there: the same trade with another ratio of bandwidth to arithmetic
# Short logits held at a time, 256 MiB: a product rearranges the whole output layer first, and the gradient of
# that layer is converted once for each. The softmax takes fewer of them, which stay in the cache.
MAX_SHORT_LOGITS = 2**27
SOFTMAX_LOGITS = 2**21


class _ChunkedCrossEntropy(torch.autograd.Function):
    """-log softmax(h W' + b)[target] per word, chunk by chunk.

    The gradient is computed while the logits of a chunk are there, as if every word counted once. The
    backward pass scales it, which is exact when all words count alike (a mean or a sum, the usual case);
    otherwise it computes the logits again with the true weights. Without ``wanted`` there is no gradient to
    come, and none is computed. Products are computed in ``dtype``, all else in the type of the hidden
    states.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor,
        targets: Tensor,
        dtype: torch.dtype,
        wanted: bool,
    ) -> Tensor:
        compute = _long if dtype == hidden.dtype else _short
        errors, gradients = compute(hidden, weight, bias, targets, dtype, wanted)
        ctx.dtype = dtype
        ctx.save_for_backward(hidden, weight, bias, targets, *gradients)
        return errors

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_errors: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, *gradients = ctx.saved_tensors
        first_grad = grad_errors[:1]
        if len(grad_errors) == 0:  # what is there is zero already
            first_grad = grad_errors.new_zeros(1)
        elif not bool((grad_errors == first_grad).all()):
            compute = _long if ctx.dtype == hidden.dtype else _short
            _, gradients = compute(hidden, weight, bias, targets, ctx.dtype, True, grad_errors)
            first_grad = grad_errors.new_ones(1)
        return *(_scaled(gradient, first_grad) for gradient in gradients), None, None, None


def _scaled(gradient: Tensor, by: Tensor) -> Tensor:
    """gradient * by in the type of ``by``; what is saved for another backward pass stays as it is."""
    return gradient * by if gradient.dtype == by.dtype else gradient.to(by.dtype).mul_(by)


# The errors [words], and the gradients of their sum by hidden states, weight and bias (none unless wanted).
_Result = tuple[Tensor, tuple[Tensor, ...]]


def _long(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    targets: Tensor,
    dtype: torch.dtype,  # noqa: ARG001
    wanted: bool,
    counts: Tensor | None = None,
) -> _Result:
    """Products in the type of the hidden states; ``counts`` [words] says how much each word counts."""
    errors = hidden.new_empty(len(hidden))
    gradients = tuple(torch.zeros_like(x) for x in (hidden, weight, bias)) if wanted else ()
    chunk = max(1, MAX_LOGITS * (ON_GPU if hidden.is_cuda else 1) // len(weight))
    chunk = max(1, -(-len(hidden) // max(1, -(-len(hidden) // chunk))))  # as few chunks, but of like size
    buffer = hidden.new_empty(min(chunk, len(hidden)), len(weight))
    for first in range(0, len(hidden), chunk):
        here = slice(first, first + chunk)
        logits = buffer[: len(hidden[here])]
        torch.addmm(bias, hidden[here], weight.t(), out=logits)
        # In place: each row is read whole before it is written.
        log_probs = torch.log_softmax(logits, 1, out=logits)
        errors[here] = log_probs.gather(1, targets[here, None]).squeeze(1).neg_()
        if wanted:
            grad_hidden, grad_weight, grad_bias = gradients
            grad = _less_target(log_probs.exp_(), targets[here])
            if counts is not None:
                grad *= counts[here, None]
            grad_bias += grad.sum(0)
            torch.mm(grad, weight, out=grad_hidden[here])
            grad_weight.addmm_(grad.t(), hidden[here])
    return errors, gradients


def _short(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    targets: Tensor,
    dtype: torch.dtype,
    wanted: bool,
    counts: Tensor | None = None,
) -> _Result:
    """Products in ``dtype``, of all words at once where ``MAX_SHORT_LOGITS`` allows; as ``_long`` else.

    Gradients are written over the logits. log p is that of a softmax, which takes a fifth of the time of a
    log-softmax on a CPU; words so unlikely that their p is no float are computed again.
    """
    num_words, size = len(hidden), len(weight)
    errors = hidden.new_empty(num_words)
    heard, rows = shortened(hidden, dtype), weight.to(dtype)
    across = rows.t().contiguous()  # products are quicker on rows of memory
    grad_hidden = torch.empty_like(heard)
    grad_weight = rows.new_zeros(())
    grad_bias = torch.zeros_like(bias)
    block = max(MAX_SHORT_LOGITS // size // MANY_ROWS, 1) * MANY_ROWS
    chunk = max(SOFTMAX_LOGITS * (ON_GPU**2 if hidden.is_cuda else 1) // size, 1)
    buffer = hidden.new_empty(min(chunk, num_words), size)
    for begin in range(0, num_words, block):
        logits = torch.mm(heard[begin : begin + block], across)
        for first in range(begin, min(begin + block, num_words), chunk):
            here = slice(first, min(first + chunk, begin + block, num_words))
            low = logits[first - begin : here.stop - begin]
            probs = buffer[: len(low)]
            probs.copy_(low).add_(bias)
            torch.softmax(probs, 1, out=probs)
            errors[here] = probs.gather(1, targets[here, None]).squeeze(1).log_().neg_()
            if wanted:
                grad = _less_target(probs, targets[here])
                if counts is not None:
                    grad *= counts[here, None]
                grad_bias += grad.sum(0)
                low.copy_(grad)
        if wanted:
            logits[num_words - begin :] = 0
            torch.mm(logits, rows, out=grad_hidden[begin : begin + block])
            product = transposed_product(logits, heard[begin : begin + block])
            grad_weight = product if num_words <= block else grad_weight.to(hidden.dtype) + product
    unlikely = torch.isinf(errors)
    if bool(unlikely.any()):
        logits = functional.linear(heard[:num_words][unlikely], rows).to(hidden.dtype) + bias
        errors[unlikely] = functional.cross_entropy(logits, targets[unlikely], reduction="none")
    return errors, (grad_hidden[:num_words], grad_weight, grad_bias) if wanted else ()


def _less_target(softmax: Tensor, targets: Tensor) -> Tensor:
    """d error / d logits, written over ``softmax``."""
    return softmax.scatter_add_(1, targets[:, None], softmax.new_full((len(targets), 1), -1.0))


class OutputLayer(nn.Module):
    """softmax(W h + b) over the vocabulary; not tied to the input embedding."""

    def __init__(self, hidden_size: int, vocabulary_size: int) -> None:
        super().__init__()
        self.linear = Linear(hidden_size, vocabulary_size)

    def forward(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """-log p(target), in nats: [words, hidden], [words] -> [words]."""
        hidden, dtype = at_least_float32(hidden), product_dtype(hidden)
        # Asked here: within the function gradients are always off, and what it is told of its inputs is
        # that they could have some.
        wanted = torch.is_grad_enabled() and (hidden.requires_grad or self.linear.weight.requires_grad)
        with torch.autocast(hidden.device.type, enabled=False):
            errors: Tensor = _ChunkedCrossEntropy.apply(
                hidden, self.linear.weight, self.linear.bias, targets, dtype, wanted
            )
        return errors

    def log_probs(self, hidden: Tensor) -> Tensor:
        """log p of every word: [..., hidden] -> [..., vocab]."""
        return functional.log_softmax(at_least_float32(self.linear(hidden)), dim=-1)
