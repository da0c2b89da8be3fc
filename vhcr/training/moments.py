"""How much each latent is used, from sums over a pass that scores the data anyway.

Cheap enough for every validation of a training: mean and variance of a Gaussian's parameters over the data,
per dimension. With them come the ratio of section 3.4 (Fig. 2) and active units.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vhcr.batch import Batch
from vhcr.models import ConversationModel, ModelOutput
from vhcr.models.gaussian import DiagonalGaussian

ACTIVE_VARIANCE = 0.01  # Burda et al. (2016): a unit is active when its posterior mean varies more than this
SMALLEST_VARIANCE = 1e-12  # of means, so that constant ones give a large ratio and no division by zero


class Moments(NamedTuple):
    """Var(mu) and E[var] of a family of diagonal Gaussians over data, per dimension: [latent] float64."""

    variance_of_mu: Tensor
    mean_of_var: Tensor

    def variance_ratio(self) -> float:
        """E[var] / Var(mu), averaged over dimensions (section 3.4, Fig. 2).

        Zero means that the Gaussians have become separate points; large, that they are one and the same.
        """
        return float((self.mean_of_var / self.variance_of_mu.clamp_min(SMALLEST_VARIANCE)).mean())

    def active_units(self) -> int:
        """Dimensions whose mean varies over the data by more than 0.01 (Burda et al., 2016)."""
        return int((self.variance_of_mu > ACTIVE_VARIANCE).sum())


class LatentSums:
    """Sums over batches of a model's priors and posteriors; of several processes, each holds its share.

    Utterances that are not scored (the first, in the ``release`` reading) are left out: nothing has
    trained their latents.
    """

    def __init__(self, model: ConversationModel) -> None:
        utt, conv = model.z_utt_size, model.z_conv_size
        self._sizes = {"prior_utt": utt, "posterior_utt": utt, "posterior_conv": conv}
        self._sizes = {name: size for name, size in self._sizes.items() if size > 0}
        device = next(model.parameters()).device
        # In one tensor, so that processes add theirs up at once: [4 * sizes], of counts, mu, mu ** 2 and var.
        self.values = torch.zeros(4 * sum(self._sizes.values()), dtype=torch.float64, device=device)

    def add(self, model: ConversationModel, batch: Batch, output: ModelOutput) -> None:
        """Add a batch that ``model`` has scored."""
        if not self._sizes:
            return
        parts = []
        for name in self._sizes:
            gaussian: DiagonalGaussian = getattr(output.latents, name)
            mu, var = gaussian.mu.double(), gaussian.var.double()
            weight = mu.new_ones(len(mu), 1)
            if name.endswith("_utt"):
                weight = model.scored_rows(batch).double().unsqueeze(1)
            for value in (torch.ones_like(mu), mu, mu.square(), var):
                parts.append((weight * value).sum(0))
        self.values += torch.cat(parts)

    def moments(self) -> dict[str, Moments]:
        """Mean and variance over what was added; nothing for a model without latents, or without data."""
        found: dict[str, Moments] = {}
        start = 0
        for name, size in self._sizes.items():
            counts, mu, square, var = self.values[start : start + 4 * size].view(4, size).cpu()
            start += 4 * size
            if counts[0] > 0:
                mean = mu / counts
                found[name] = Moments((square / counts - mean.square()).clamp_min(0.0), var / counts)
        return found

    def usage(self) -> dict[str, float]:
        """The light diagnostics by name, as the curves have them; empty for a model without latents."""
        moments = self.moments()
        result: dict[str, float] = {}
        if "prior_utt" in moments:
            result["prior_variance_ratio"] = moments["prior_utt"].variance_ratio()
        for level in ("utt", "conv"):
            if (posterior := moments.get(f"posterior_{level}")) is not None:
                result[f"posterior_variance_ratio_{level}"] = posterior.variance_ratio()
                result[f"active_units_{level}"] = posterior.active_units()
        return result
