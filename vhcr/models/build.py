"""A system of the paper from its parameters."""

from __future__ import annotations

import torch

from vhcr.errors import ParameterError
from vhcr.models.conversation_model import ConversationModel
from vhcr.models.hierarchical import HierarchicalModel
from vhcr.models.initialisation import make_informative, make_orthogonal_across_gates
from vhcr.models.kneser_ney import KneserNey
from vhcr.models.transformer import Transformer
from vhcr.params import ModelParams, SystemParams

ANCHORS: dict[str, type[ConversationModel]] = {"transformer": Transformer, "kneser-ney": KneserNey}
# Of the paper's architectures, whether there is z_utt, and z_conv.
HIERARCHICAL = {"hred": (False, False), "vhred": (True, False), "vhcr": (True, True)}
WITH_Z_UTT = tuple(name for name, (z_utt, _) in HIERARCHICAL.items() if z_utt)
WITH_Z_CONV = tuple(name for name, (_, z_conv) in HIERARCHICAL.items() if z_conv)
# What a parameter above zero needs, and which architectures have it.
NEEDS: dict[str, tuple[tuple[str, ...], str]] = {
    "word_drop": (tuple(HIERARCHICAL), "a decoder of its own for each utterance"),
    "utterance_drop": (tuple(HIERARCHICAL), "vectors of utterances"),
    "bag_of_words_weight": (WITH_Z_UTT, "a latent variable"),
    "free_bits_utt": (WITH_Z_UTT, "a latent variable"),
    "free_bits_conv": (WITH_Z_CONV, "a latent variable of the conversation"),
    "free_bits_conv_per_word": (WITH_Z_CONV, "a latent variable of the conversation"),
    "posterior_batch_norm": (WITH_Z_UTT, "a latent variable"),
    "inference_first_steps": (WITH_Z_UTT, "a latent variable"),
}


def build(model: ModelParams, system: SystemParams, vocabulary_size: int, seed: int = 0) -> ConversationModel:
    """The network of ``system`` with weights drawn from ``seed``; the global generator stays as it was.

    Raises:
        ParameterError: the decoder is to see neither context nor latents, or a parameter needs latents or
            other parts that the architecture has not.
    """
    if not system.decoder_sees_context and system.architecture not in WITH_Z_UTT:
        raise ParameterError(
            f"decoder_sees_context = false leaves the decoder of {system.architecture!r} nothing to see: "
            "it has no latents"
        )
    for name, (architectures, what) in NEEDS.items():
        if getattr(system, name) > 0.0 and system.architecture not in architectures:
            raise ParameterError(f"{name} > 0 needs {what}, which {system.architecture!r} has not")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        anchor = ANCHORS.get(system.architecture)
        if anchor is not None:
            return anchor(model, system, vocabulary_size)
        z_utt, z_conv = HIERARCHICAL[system.architecture]
        network = HierarchicalModel(model, system, vocabulary_size, z_utt=z_utt, z_conv=z_conv)
        if network.reading.orthogonal_across_gates:
            make_orthogonal_across_gates(network)
        if model.initialisation == "informative":
            make_informative(network)
        return network
