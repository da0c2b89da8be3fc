"""Section 3 of the paper: HRED, VHRED and VHCR over shared pieces; and anchors from outside of the family."""

from vhcr.models.build import build
from vhcr.models.conversation_model import ConversationModel, Latents, ModelOutput
from vhcr.models.hierarchical import HierarchicalModel
from vhcr.models.kneser_ney import KneserNey
from vhcr.models.noise import Noise
from vhcr.models.transformer import Transformer

__all__ = [
    "ConversationModel",
    "HierarchicalModel",
    "KneserNey",
    "Latents",
    "ModelOutput",
    "Noise",
    "Transformer",
    "build",
]
