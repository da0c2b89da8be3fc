"""A system of the paper from its parameters."""

from __future__ import annotations

import torch

from vhcr.errors import ParameterError
from vhcr.models.hred import HRED
from vhcr.models.vhcr import VHCR
from vhcr.models.vhred import VHRED
from vhcr.params import ModelParams, SystemParams

ARCHITECTURES: dict[str, type[HRED]] = {"hred": HRED, "vhred": VHRED, "vhcr": VHCR}


def build(model: ModelParams, system: SystemParams, vocabulary_size: int, seed: int = 0) -> HRED:
    """The network of ``system`` with weights drawn from ``seed``; the global generator stays as it was.

    Raises:
        ParameterError: the decoder is to see neither context nor latents.
    """
    architecture = ARCHITECTURES[system.architecture]
    if not system.decoder_sees_context and not issubclass(architecture, VHRED):
        raise ParameterError(
            f"decoder_sees_context = false leaves the decoder of {system.architecture!r} nothing to see: "
            "it has no latents"
        )
    if system.bag_of_words_weight > 0.0 and not issubclass(architecture, VHRED):
        raise ParameterError(
            f"bag_of_words_weight > 0 needs a latent variable, which {system.architecture!r} has not"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return architecture(model, system, vocabulary_size)
