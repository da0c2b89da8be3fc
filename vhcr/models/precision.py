"""Mixed precision: matrix products in a short type where asked for, everything else in the long one.

``torch.autocast`` says what is asked for. Inside it the library's own layers convert by themselves; our
autograd functions do it by hand, with these, because autocast stops at their border: parameters, states,
pointwise arithmetic, softmax and sums over products stay in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor


def product_dtype(like: Tensor) -> torch.dtype:
    """The type that products of tensors such as ``like`` are computed in."""
    kind = like.device.type
    if like.dtype == torch.float32 and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return like.dtype


def at_least_float32(x: Tensor) -> Tensor:
    """``x`` for arithmetic that a short type would spoil; float64 stays."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def add_product(target: Tensor, a: Tensor, b: Tensor) -> None:
    """target += a b in place, the product computed in the type of ``b`` and added in that of ``target``."""
    if b.dtype == target.dtype:
        target.addmm_(a, b)
    else:
        target += torch.mm(a.to(b.dtype), b)


def product(a: Tensor, b: Tensor, like: Tensor) -> Tensor:
    """a b in the type of ``like``, the product computed in the type of ``b``."""
    return torch.mm(a.to(b.dtype), b).to(like.dtype)
