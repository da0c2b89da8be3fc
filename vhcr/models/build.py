"""A system of the paper from its parameters."""

from __future__ import annotations

import torch

from vhcr.errors import ParameterError
from vhcr.models.conversation_model import ConversationModel
from vhcr.models.hred import HRED
from vhcr.models.initialisation import make_informative, make_orthogonal_across_gates
from vhcr.models.kneser_ney import KneserNey
from vhcr.models.transformer import Transformer
from vhcr.models.vhcr import VHCR
from vhcr.models.vhred import VHRED
from vhcr.params import ModelParams, SystemParams

ARCHITECTURES: dict[str, type[ConversationModel]] = {
    "hred": HRED,
    "vhred": VHRED,
    "vhcr": VHCR,
    "transformer": Transformer,
    "kneser-ney": KneserNey,
}
# What a parameter above zero needs, and who has it.
NEEDS: dict[str, tuple[type[ConversationModel], str]] = {
    "word_drop": (HRED, "a decoder of its own for each utterance"),
    "utterance_drop": (HRED, "vectors of utterances"),
    "bag_of_words_weight": (VHRED, "a latent variable"),
    "free_bits_utt": (VHRED, "a latent variable"),
    "free_bits_conv": (VHCR, "a latent variable of the conversation"),
    "free_bits_conv_per_word": (VHCR, "a latent variable of the conversation"),
    "posterior_batch_norm": (VHRED, "a latent variable"),
    "inference_first_steps": (VHRED, "a latent variable"),
}


def build(model: ModelParams, system: SystemParams, vocabulary_size: int, seed: int = 0) -> ConversationModel:
    """The network of ``system`` with weights drawn from ``seed``; the global generator stays as it was.

    Raises:
        ParameterError: the decoder is to see neither context nor latents, or a parameter needs latents or
            other parts that the architecture has not.
    """
    architecture = ARCHITECTURES[system.architecture]
    if not system.decoder_sees_context and not issubclass(architecture, VHRED):
        raise ParameterError(
            f"decoder_sees_context = false leaves the decoder of {system.architecture!r} nothing to see: "
            "it has no latents"
        )
    for name, (needed, what) in NEEDS.items():
        if getattr(system, name) > 0.0 and not issubclass(architecture, needed):
            raise ParameterError(f"{name} > 0 needs {what}, which {system.architecture!r} has not")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = architecture(model, system, vocabulary_size)
        if isinstance(network, HRED) and network.reading.orthogonal_across_gates:
            make_orthogonal_across_gates(network)
        if isinstance(network, HRED) and model.initialisation == "informative":
            make_informative(network)
        return network
