"""The limit: how fast this machine multiplies matrices and moves memory, now."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.measure import Clock, Part, alternate
from vhcr.batch import Batch
from vhcr.params import ModelParams


def matmul(dtype: torch.dtype, device: str, size: int) -> tuple[Callable[[int], object], float]:
    """A product of square matrices, and its floating-point operations."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    result = torch.empty_like(a)
    return lambda _: torch.mm(a, b, out=result), 2.0 * size**3


def copying(device: str, floats: int) -> tuple[Callable[[int], object], float]:
    """A copy of a large array, and the bytes it reads and writes."""
    source: Tensor = torch.randn(floats, device=device)
    target = torch.empty_like(source)
    return lambda _: target.copy_(source), 8.0 * floats


def peak(dtype: torch.dtype, device: str, clock: Clock, size: int = 3072) -> float:
    """Floating-point operations a second in products of square matrices: the best of several.

    Of many where one takes milliseconds: the first ones of a size are several times as slow.
    """
    product, operations = matmul(dtype, device, size)
    repeats = max(5, round(2e11 / operations))
    return operations / min(alternate({"": product}, 1, clock)[""] for _ in range(repeats))


def limit(clock: Clock, device: str = "cpu", size: int = 3072) -> Part:
    """The part ``limit``."""
    part = Part("limit", {"matrix": size, "clock": clock.kind})
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        rate = peak(dtype, device, clock, size if device != "cpu" or dtype == torch.float32 else size // 3)
        part.add(f"matrix products, {name}", rate / 1e9, "GFLOP/s")
    copy, num_bytes = copying(device, 2**26)
    part.add("memory, copying", num_bytes / alternate({"": copy}, 5, clock)[""] / 1e9, "GB/s")
    return part


def model_flops(sizes: ModelParams, batch: Batch, vocabulary_size: int) -> float:
    """Floating-point operations of our training step of VHCR on ``batch``.

    Matrix products alone: two for each multiplication, three passes (forward, gradients of the inputs, of
    the weights), nothing for padding, and the gates of a word that occurs many times once, as we do.
    """
    words, distinct = len(batch.token_ids), len(batch.token_ids.unique())

    def gru(inputs: int, hidden: int) -> int:
        return 3 * hidden * (inputs + hidden)

    def of_words(hidden: int) -> int:
        return 3 * hidden * (sizes.embedding_size * distinct + hidden * words)

    h_enc, z_utt, z_conv = 2 * sizes.encoder_size, sizes.z_utt_size, sizes.z_conv_size
    context, decoder, conv = sizes.context_size, sizes.decoder_size, sizes.conversation_encoder_size
    per_row = 2 * gru(h_enc, conv) + gru(h_enc + z_conv, context) + (context + z_utt + z_conv) * decoder
    per_row += (context + z_conv) * context + context**2 + 2 * context * z_utt  # the prior of z_utt
    per_row += (h_enc + context + z_conv) * context + context**2 + 2 * context * z_utt  # its posterior
    per_conversation = 2 * conv * context + context**2 + 2 * context * z_conv + z_conv * context
    products = 2 * of_words(sizes.encoder_size) + of_words(decoder) + decoder * vocabulary_size * words
    products += per_row * batch.num_rows + per_conversation * batch.num_conversations
    return 6.0 * products
