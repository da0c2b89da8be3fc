"""How weights begin. The paper does not say; its authors' program does it in one way, which is slow at first.

``release``: what each layer does by itself, as in that program. Recurrent weights orthogonal, the hidden half
of every update gate's bias at 2 (see ``recurrent.GRULayer``), the rest the framework's. States then move by
an eighth at each step, posterior means hardly differ between utterances, and z is noise with a variance of
0.7: for the decoder the best thing to learn first is to take no notice of it. Two things the reading decides,
since the paper's has its numbers: whether weights are orthogonal gate by gate or across the gates, and how
long h_unk is.

``informative``: z says something from the first step on. Means are spread out and variances small, in
posteriors and in priors that are learnt; the decoder's start hears its sources clearly; update gates are
neutral. Hidden layers and all else begin as in ``release``, and the objective is the same.
"""

from __future__ import annotations

import torch

from vhcr.models.gaussian import GaussianMLP
from vhcr.models.hierarchical import HierarchicalModel
from vhcr.models.kernels.recurrent import GRULayer

MEAN_GAIN = 8.0  # two tanh layers leave a spread of some 0.1; this makes it that of N(0, I)
VARIANCE_BIAS = -5.0  # before softplus: a variance of 0.007, well below that spread
START_GAIN = 4.0  # of the decoder's start, which is a tanh of all it is told of a turn


def make_orthogonal_across_gates(model: HierarchicalModel) -> None:
    """Recurrent weights orthogonal as one [3 hidden, hidden] matrix, as in the authors' program; in place.

    Columns are orthonormal: the three gates share what each has by itself elsewhere, and so the singular
    values of one gate lie between 0 and 1.
    """
    for module in model.modules():
        if isinstance(module, GRULayer):
            torch.nn.init.orthogonal_(module.weight_hh)


def make_informative(model: HierarchicalModel) -> None:
    """Begin with weights that make z worth hearing (``informative`` above); in place."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, GRULayer):
                module.bias_hh[module.hidden_size : 2 * module.hidden_size] = 0.0
            elif isinstance(module, GaussianMLP):
                module.mu.weight.mul_(MEAN_GAIN)
                module.var.bias.fill_(VARIANCE_BIAS)
        model.decoder.from_sources.weight.mul_(START_GAIN)
