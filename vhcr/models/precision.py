"""Mixed precision: matrix products in a short type where asked for, everything else in the long one.

``torch.autocast`` says what is asked for. Inside it the library's own layers convert by themselves; our
autograd functions do it by hand, with these, because autocast stops at their border: parameters, states,
pointwise arithmetic, softmax and sums over products stay in float32.

Short products are computed on row counts rounded up with zeros (``rounded``). On a CPU oneDNN compiles a
kernel for each shape that it meets, which takes ten times as long as the product itself, and keeps 1,024 of
them. Every batch has another number of words and every step another number of sequences, so without
rounding nearly every product would pay for a kernel of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

ROWS = 32  # rows of a tile of two AMX registers; a step of a recurrent network has 1 to 800
MANY_ROWS = 128  # where there are more than a thousand, so that few counts occur


def product_dtype(like: Tensor) -> torch.dtype:
    """The type that products of tensors such as ``like`` are computed in."""
    kind = like.device.type
    if like.dtype == torch.float32 and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return like.dtype


def at_least_float32(x: Tensor) -> Tensor:
    """``x`` for arithmetic that a short type would spoil; float64 stays."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def rounded(rows: int) -> int:
    """The number of rows that a short product is computed on: ``rows`` or a few more."""
    unit = ROWS if rows <= 1024 else MANY_ROWS
    return -(-rows // unit) * unit


def shortened(x: Tensor, dtype: torch.dtype) -> Tensor:
    """``x`` [items, size] in ``dtype`` as [rounded(items), size], the rows beyond zero."""
    result = x.new_empty(rounded(len(x)), x.shape[1], dtype=dtype)
    result[: len(x)] = x
    result[len(x) :] = 0
    return result


def transposed_product(a: Tensor, b: Tensor) -> Tensor:
    """a' b of short [items, m] and [items, n]: [m, n].

    Where there are many items as (b' a)', with ``b``, the smaller, laid out anew: oneDNN multiplies rows of
    memory twice as fast as columns.
    """
    if len(a) <= MANY_ROWS * 8:
        return torch.mm(a.t(), b)
    return torch.mm(b.t().contiguous(), a).t().contiguous()


class Linear(nn.Linear):
    """``nn.Linear`` whose short products have rounded row counts."""

    def forward(self, inputs: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        if product_dtype(inputs) == inputs.dtype:
            return super().forward(inputs)
        rows = inputs.flatten(0, -2)
        padded = functional.pad(rows, (0, 0, 0, rounded(len(rows)) - len(rows)))
        return super().forward(padded)[: len(rows)].unflatten(0, inputs.shape[:-1])
