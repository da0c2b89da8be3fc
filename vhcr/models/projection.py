"""The output layer: -log p(word) over the vocabulary, without ever holding the logits of a whole batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

# Logits held at a time; a chunk of 2**24 floats is 64 MiB.
MAX_LOGITS = 2**24


class _ChunkedCrossEntropy(torch.autograd.Function):
    """-log softmax(h W' + b)[target] per word, chunk by chunk.

    The gradient is computed while the logits of a chunk are there, as if every word counted once. The
    backward pass scales it, which is exact when all words count alike (a mean or a sum, the usual case);
    otherwise it computes the logits again with the true weights.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, chunk: int
    ) -> Tensor:
        wanted = any(ctx.needs_input_grad[:3])
        errors = hidden.new_empty(hidden.shape[0])
        grad_hidden = torch.empty_like(hidden) if wanted else None
        grad_weight = torch.zeros_like(weight) if wanted else None
        grad_bias = torch.zeros_like(bias) if wanted else None
        for first in range(0, hidden.shape[0], chunk):
            here = slice(first, first + chunk)
            logits = torch.addmm(bias, hidden[here], weight.t())
            chosen = logits.gather(1, targets[here, None]).squeeze(1)
            total = torch.logsumexp(logits, dim=1)
            errors[here] = total - chosen
            if grad_hidden is not None and grad_weight is not None and grad_bias is not None:
                grad = _softmax_less_target(logits, total, targets[here])
                torch.mm(grad, weight, out=grad_hidden[here])
                grad_weight.addmm_(grad.t(), hidden[here])
                grad_bias += grad.sum(0)
        ctx.chunk = chunk
        ctx.save_for_backward(hidden, weight, bias, targets, grad_hidden, grad_weight, grad_bias)
        return errors

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_errors: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        hidden, weight, bias, targets, grad_hidden, grad_weight, grad_bias = ctx.saved_tensors
        if len(grad_errors) == 0:  # what is there is zero already
            return grad_hidden, grad_weight, grad_bias, None, None
        first_grad = grad_errors[:1]
        if bool((grad_errors == first_grad).all()):
            return grad_hidden * first_grad, grad_weight * first_grad, grad_bias * first_grad, None, None
        grad_weight, grad_bias = torch.zeros_like(weight), torch.zeros_like(bias)
        for first in range(0, hidden.shape[0], ctx.chunk):
            here = slice(first, first + ctx.chunk)
            logits = torch.addmm(bias, hidden[here], weight.t())
            grad = _softmax_less_target(logits, torch.logsumexp(logits, dim=1), targets[here])
            grad *= grad_errors[here, None]
            grad_weight.addmm_(grad.t(), hidden[here])
            grad_bias += grad.sum(0)
        return grad_hidden * grad_errors[:, None], grad_weight, grad_bias, None, None


def _softmax_less_target(logits: Tensor, total: Tensor, targets: Tensor) -> Tensor:
    """d error / d logits, written over ``logits``."""
    logits.sub_(total[:, None]).exp_()
    return logits.scatter_add_(1, targets[:, None], logits.new_full((len(targets), 1), -1.0))


class OutputLayer(nn.Module):
    """softmax(W h + b) over the vocabulary; not tied to the input embedding."""

    def __init__(self, hidden_size: int, vocabulary_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden_size, vocabulary_size)

    def forward(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """-log p(target), in nats: [words, hidden], [words] -> [words]."""
        chunk = max(1, MAX_LOGITS // self.linear.out_features)
        errors: Tensor = _ChunkedCrossEntropy.apply(
            hidden, self.linear.weight, self.linear.bias, targets, chunk
        )
        return errors

    def log_probs(self, hidden: Tensor) -> Tensor:
        """log p of every word: [..., hidden] -> [..., vocab]."""
        return functional.log_softmax(self.linear(hidden), dim=-1)
