"""The machine that computes: device, threads, small numbers, freed memory."""

from __future__ import annotations

import ctypes
from contextlib import suppress

import torch

from vhcr.errors import ParameterError

# Options of glibc's malloc: large blocks from the heap (M_MMAP_MAX), which is not trimmed (M_TRIM_THRESHOLD).
MALLOC = {-4: 0, -1: 2**31 - 1}


def choose_device(wanted: str) -> torch.device:
    """``auto`` takes a GPU where there is one.

    Raises:
        ParameterError: ``cuda`` is asked for and there is none.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ParameterError("training.device = 'cuda': this machine has no usable GPU")
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)


def set_up_cpu(num_threads: int) -> None:
    """Use so many threads (0: all cores), take denormal numbers for zero, and keep memory that is freed.

    Adam's moments of a word that does not occur decay into denormal numbers within a thousand steps, and
    arithmetic on those is fifteen times slower. A step at the paper's size makes and frees a gigabyte; asking
    the system for it anew each time is a tenth of a step in bfloat16.
    """
    if num_threads:
        torch.set_num_threads(num_threads)
    torch.set_flush_denormal(True)
    with suppress(OSError, AttributeError):  # where the C library is not glibc memory goes back
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        for option, value in MALLOC.items():
            mallopt(option, value)
