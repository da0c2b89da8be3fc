"""The two ways in which weights begin."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.models.examples import LATENT_SYSTEMS, VOCABULARY, conversations, packed, sizes, system
from vhcr.models import HierarchicalModel, Noise, build
from vhcr.models.gaussian import GaussianMLP, NormalisedMean
from vhcr.models.kernels.recurrent import GRULayer
from vhcr.params import ModelParams


def begun(name: str, initialisation: Any, **changes: int) -> HierarchicalModel:
    model = ModelParams.model_validate(
        {
            **sizes(initialisation=initialisation).model_dump(),
            "embedding_size": 64,
            "encoder_size": 64,
            "context_size": 64,
            "decoder_size": 64,
            "conversation_encoder_size": 64,
            "z_utt_size": 16,
            "z_conv_size": 16,
            **changes,
        }
    )
    return build(model, system(name), VOCABULARY, seed=1).eval()


@pytest.mark.parametrize("name", ["hred", *LATENT_SYSTEMS])
def test_nothing_else_differs(name: str) -> None:
    """Hidden layers, embeddings and recurrent weights are drawn alike: only what is named changes."""
    release, informative = begun(name, "release"), begun(name, "informative")
    changed = {
        key
        for (key, one), other in zip(
            release.state_dict().items(), informative.state_dict().values(), strict=True
        )
        if not torch.equal(one, other)
    }
    gates = {f"{key}.bias_hh" for key, module in release.named_modules() if isinstance(module, GRULayer)}
    heads = {
        f"{key}.{part}"
        for key, module in release.named_modules()
        if isinstance(module, GaussianMLP)
        for part in ("mu.weight", "var.bias")
    }
    assert changed == gates | heads | {"decoder.from_sources.weight"}


@pytest.mark.parametrize(("reading", "across"), [("paper", False), ("release", True)])
def test_recurrent_weights_are_orthogonal_by_gate_or_across_the_gates(reading: str, across: bool) -> None:
    """The authors' program orthogonalises all three gates as one matrix, so that one gate's may be near 0."""
    sizes_of = sizes(initialisation="release").model_copy(update={"decoder_size": 64})
    model = build(sizes_of, system("vhcr-ud", reading), VOCABULARY, seed=1)
    layers = [module for module in model.modules() if isinstance(module, GRULayer)]
    assert len(layers) == 6
    for layer in layers:
        whole = torch.linalg.svdvals(layer.weight_hh.detach())
        assert whole.tolist() == pytest.approx([1.0 if across else 3.0**0.5] * len(whole), abs=1e-5)
        if layer.hidden_size == 64:
            for gate in layer.weight_hh.detach().split(64):
                least, most = torch.linalg.svdvals(gate)[[-1, 0]].tolist()
                assert (least < 0.1 and most < 0.99) if across else least == pytest.approx(most, abs=1e-5)
    deviation = float(model.h_unk.detach().square().mean().sqrt())
    assert deviation == pytest.approx(1.0 if across else 0.1, rel=0.8)


def test_posteriors_begin_precise_and_spread_out() -> None:
    """With the release's weights a posterior hardly differs between utterances and is noise for the rest."""
    batch = packed(conversations([3, 2, 4, 1, 3, 2, 4], seed=3))
    for name, least in (("vhred", 1), ("vhcr", 2)):
        for initialisation, informative in (("release", False), ("informative", True)):
            latents = begun(name, initialisation)(batch, Noise(0)).latents
            found = [latents.posterior_utt, latents.posterior_conv][:least]
            for posterior in found:
                assert posterior is not None
                spread = posterior.mu.var(0, unbiased=False).mean()
                noise = posterior.var.mean()
                assert bool(spread > noise) is informative
                assert bool(spread < 0.01 * noise) is not informative


def test_normalised_means_have_the_asked_deviation_whatever_the_network_says() -> None:
    layer = NormalisedMean(3, 0.6).double().train()
    random = torch.Generator().manual_seed(1)
    normal = torch.randn(50, 3, dtype=torch.float64, generator=random)
    normal = (normal - normal.mean(0)) / normal.std(0, unbiased=False)
    mu = normal * torch.tensor([100.0, 3e-3, 1.0]) + 5.0  # 1e-8 beside 9e-6 takes 0.06 % off the second
    out = layer(mu).detach()
    assert out.mean(0).tolist() == pytest.approx([0.0] * 3, abs=1e-9)
    assert out.std(0, unbiased=False).tolist() == pytest.approx([0.6] * 3, rel=1e-3)
    kl_of_means = 0.5 * out.square().sum(1).mean()  # KL to N(0, I) is at least this: it cannot vanish
    assert float(kl_of_means) == pytest.approx(0.5 * 3 * 0.36, rel=0.05)


def test_after_training_one_item_is_normalised_as_many_are() -> None:
    """Batch equals single: else a conversation's bound would depend on its company."""
    layer = NormalisedMean(2, 0.5).double().train()
    random = torch.Generator().manual_seed(2)
    data = torch.randn(400, 2, dtype=torch.float64, generator=random) * 3.0 + 1.0
    for _ in range(300):
        layer(data)
    layer.eval()
    whole = layer(data).detach()
    torch.testing.assert_close(layer(data[:1]).detach(), whole[:1])
    assert whole.std(0, unbiased=False).tolist() == pytest.approx([0.5, 0.5], rel=0.01)
    assert whole.mean(0).tolist() == pytest.approx([0.0, 0.0], abs=0.01)
    before = layer.mean.clone()
    layer(data + 7.0)
    assert torch.equal(layer.mean, before)  # scoring teaches it nothing


def test_a_batch_of_one_trains_without_a_deviation_of_its_own() -> None:
    layer = NormalisedMean(2, 0.5).train()
    assert torch.isfinite(layer(torch.tensor([[4.0, 5.0]]))).all()
