"""Section 3 of the paper: HRED, VHRED and VHCR over shared pieces."""

from vhcr.models.build import build
from vhcr.models.hred import HRED, Latents, ModelOutput
from vhcr.models.noise import Noise
from vhcr.models.vhcr import VHCR
from vhcr.models.vhred import VHRED

__all__ = ["HRED", "VHCR", "VHRED", "Latents", "ModelOutput", "Noise", "build"]
