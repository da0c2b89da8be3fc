"""A system of the paper from its parameters."""

from __future__ import annotations

import torch

from vhcr.errors import ParameterError
from vhcr.models.hred import HRED
from vhcr.models.initialisation import make_informative
from vhcr.models.vhcr import VHCR
from vhcr.models.vhred import VHRED
from vhcr.params import ModelParams, SystemParams

ARCHITECTURES: dict[str, type[HRED]] = {"hred": HRED, "vhred": VHRED, "vhcr": VHCR}


def build(model: ModelParams, system: SystemParams, vocabulary_size: int, seed: int = 0) -> HRED:
    """The network of ``system`` with weights drawn from ``seed``; the global generator stays as it was.

    Raises:
        ParameterError: the decoder is to see neither context nor latents, or a parameter needs latents that
            the architecture has not.
    """
    architecture = ARCHITECTURES[system.architecture]
    if not system.decoder_sees_context and not issubclass(architecture, VHRED):
        raise ParameterError(
            f"decoder_sees_context = false leaves the decoder of {system.architecture!r} nothing to see: "
            "it has no latents"
        )
    needs = {
        "bag_of_words_weight": VHRED,
        "free_bits_utt": VHRED,
        "free_bits_conv": VHCR,
        "posterior_batch_norm": VHRED,
        "inference_first_steps": VHRED,
    }
    for name, needed in needs.items():
        if getattr(system, name) > 0.0 and not issubclass(architecture, needed):
            raise ParameterError(
                f"{name} > 0 needs a latent variable{' of the conversation' if needed is VHCR else ''}, "
                f"which {system.architecture!r} has not"
            )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = architecture(model, system, vocabulary_size)
        if model.initialisation == "informative":
            make_informative(network)
        return network
