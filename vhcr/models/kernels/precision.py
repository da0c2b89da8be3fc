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

import time
from collections.abc import Iterator
from contextlib import contextmanager

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


@contextmanager
def products_in(precision: str, device: torch.device) -> Iterator[None]:
    """Matrix products in ``precision`` (float32 or bfloat16) within."""
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        yield


def short_products_pay(inner: int, outer: int, device: torch.device) -> bool:
    """Whether this machine computes products of [1024, inner] and [inner, outer] twice as fast in bfloat16.

    What is measured has the size of an output layer, the largest part of a step; it takes 0.1 to 1 s on a
    CPU. A GPU is asked whether it has such products.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    a, b = torch.ones(1024, inner), torch.ones(inner, outer)

    def seconds(dtype: torch.dtype) -> float:
        left, right = a.to(dtype), b.to(dtype)
        torch.mm(left, right)  # compiles its kernel
        best = float("inf")
        for _ in range(5):
            begun = time.perf_counter()
            torch.mm(left, right)
            best = min(best, time.perf_counter() - begun)
        return best

    return 2.0 * seconds(torch.bfloat16) < seconds(torch.float32)


class Linear(nn.Linear):
    """``nn.Linear`` whose short products have rounded row counts."""

    def forward(self, inputs: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        if product_dtype(inputs) == inputs.dtype:
            return super().forward(inputs)
        rows = inputs.flatten(0, -2)
        padded = functional.pad(rows, (0, 0, 0, rounded(len(rows)) - len(rows)))
        return super().forward(padded)[: len(rows)].unflatten(0, inputs.shape[:-1])
