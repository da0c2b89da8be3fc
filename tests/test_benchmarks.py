"""The baseline computes what the models compute, and the benchmarks say what they measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import __main__ as command
from benchmarks import data as data_module
from benchmarks import gpu, limit, processes, scale, training
from benchmarks.baseline import Baseline, PaddedBatch
from benchmarks.contestants import Chosen, Setting
from benchmarks.limit import model_flops
from benchmarks.measure import Clock, alternate
from benchmarks.peak import measure
from tests.training import tiny
from vhcr.generation.respond import Responder
from vhcr.models import HierarchicalModel, Noise, build
from vhcr.models.gaussian import draw_posterior_mean
from vhcr.models.objective import loss
from vhcr.params import GenerationParams
from vhcr.token_files import Conversations

DATA = tiny.conversations(12, seed=4)
CHOSEN = [3, 0, 7, 8, 5]


def pair(pad_turns: bool, **changes: object) -> tuple[HierarchicalModel, Baseline]:
    """The model and the baseline with equal weights, both in float64."""
    fast = build(tiny.MODEL, tiny.system("vhcr-ud", **changes), tiny.VOCABULARY, seed=1).double()
    assert isinstance(fast, HierarchicalModel)
    return fast, Baseline(fast, pad_turns=pad_turns).double()


@pytest.mark.parametrize("pad_turns", [True, False])
@pytest.mark.parametrize("drop", [0.0, 1.0])
def test_baseline_reaches_the_same_loss_and_gradients(pad_turns: bool, drop: float) -> None:
    """With drops off, or with every utterance dropped; latents at their means."""
    fast, plain = pair(pad_turns, utterance_drop=max(drop, 1e-9))
    fast.train()
    plain.train()
    mine = loss(fast(DATA.batch(CHOSEN), Noise(0), draw=draw_posterior_mean), 0.7, 0.0)
    theirs = plain.loss(PaddedBatch.of(DATA, CHOSEN), 0.7, sample=False)
    torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=0.0)
    mine.backward()
    theirs.backward()
    pairs = [
        (fast.embedding.weight, plain.embedding.weight),
        (fast.decoder.output.linear.weight, plain.output.weight),
        (fast.encoder.rnn.backwards[0].weight_hh, plain.encoder_back.weight_hh),
        (fast.conversation_encoder.rnn.forwards[0].weight_ih, plain.conversation_ahead.weight_ih),
        (fast.context.rnn.layers[0].bias_hh, plain.context.bias_hh),
        (fast.prior_mlp.var.weight, plain.prior_utt.var.weight),
    ]
    if drop:
        pairs.append((fast.h_unk, plain.h_unk))
    for ours, others in pairs:
        torch.testing.assert_close(ours.grad, others.grad, rtol=1e-9, atol=1e-14)


def test_baseline_responds_alike() -> None:
    fast, plain = pair(pad_turns=True)
    with torch.no_grad():
        for parameter in fast.parameters():
            parameter.mul_(5.0)  # so that not every context gets the same words
    plain.load(fast)
    params = GenerationParams.model_validate(tiny.PARAMS.corpus("toy").generation.model_dump())
    responder = Responder(fast.eval(), params, Noise(0), latent_scale=0.0)
    said = [turns[0] for turns in responder.respond([DATA.utterances(i) for i in CHOSEN]).token_ids]
    assert said == plain.eval().respond(PaddedBatch.of(DATA, CHOSEN))
    assert len({tuple(words) for words in said}) > 1


class Products(TorchDispatchMode):
    """Counts the floating-point operations of matrix products as they are done."""

    flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in ("mm", "addmm", "addmm_"):
            a, b = args[-2:]
            self.flops += 2 * a.shape[0] * a.shape[1] * b.shape[1]
        return func(*args, **(kwargs or {}))


def test_operations_are_counted_as_they_are_done() -> None:
    setting = Setting.of("toy")
    batch = data_module.synthetic(80, setting.vocabulary_size).batch(range(40))
    model = setting.model()
    with Products() as counted:
        loss(model(batch, Noise(0)), 1.0, 0.0).backward()
    # f_cxt does not hear the last utterance, which the count takes for one like the others.
    assert model_flops(setting.model_params, batch, setting.vocabulary_size) == pytest.approx(
        counted.flops, rel=0.02
    )


def test_rounds_alternate_and_the_first_does_not_count() -> None:
    calls: list[tuple[str, int]] = []
    contestants = {
        "a": lambda number: calls.append(("a", number)),
        "b": lambda number: calls.append(("b", number)),
    }
    seconds = alternate(contestants, repeats=2, clock=Clock())
    assert calls == [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2), ("b", 2)]
    assert set(seconds) == {"a", "b"}


def test_invented_conversations_have_cornells_lengths() -> None:
    data = data_module.synthetic(4000, 500)
    words, turns = data.num_words / data.num_turns.sum(), data.num_turns.mean()
    assert words == pytest.approx(12.6, abs=0.3)
    assert turns == pytest.approx(3.5, abs=0.15)
    assert max(data.num_turns) == 10
    batch = data.batch(range(50))
    assert int(batch.num_words.max()) <= 30
    assert int(batch.token_ids.max()) < 500


def small(split: str, vocabulary_size: int) -> tuple[Conversations, str]:
    return data_module.synthetic({"train": 400}.get(split, 330), vocabulary_size), "invented"


def test_command_prints_a_table_and_writes_what_it_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    threads = torch.get_num_threads()
    monkeypatch.setattr(training, "conversations", small)
    monkeypatch.setattr(training, "peak", partial(limit.peak, size=256))
    monkeypatch.setenv("COLUMNS", "200")
    out = ["--out", str(tmp_path), "--preset", "toy", "--repeats", "1", "--threads", "1"]
    try:
        command.main(["train-step", *out])
    finally:
        torch.set_num_threads(threads)
    assert "training step against baseline" in capsys.readouterr().out
    written = json.loads((tmp_path / "train-step-toy.json").read_text(encoding="utf-8"))
    assert written["settings"]["data"] == "invented"
    assert written["settings"]["threads"] == 1
    assert written["machine"]["cores"] >= 1
    assert "torch" in written["versions"]
    figures = {figure["what"]: figure for figure in written["figures"]}
    step = figures["training step against baseline"]
    assert step["ratio"] == pytest.approx(step["baseline"] / step["value"])
    assert 0.0 < figures["share of the limit"]["value"] < 100.0
    assert not {"hostname", "path"} & set(written["machine"])


def test_both_precisions_are_measured_on_the_same_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "conversations", small)
    monkeypatch.setattr(training, "peak", partial(limit.peak, size=256))
    figures = {f.what: f for f in training.precision("toy", 1, Clock("cpu"), warm_up=0).figures}
    step = figures["training step in bfloat16 against float32"]
    assert step.baseline is not None
    assert step.ratio == pytest.approx(step.baseline / step.value)
    # The same operations in both: shares times limits times seconds agree.
    done = [
        figures[f"share of the limit, {kind}"].value
        * figures[f"limit, {kind} matrix products"].value
        * seconds
        for kind, seconds in (("float32", step.baseline), ("bfloat16", step.value))
    ]
    assert done[0] == pytest.approx(done[1])


def test_an_unknown_part_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["train-stop"])
    assert "'train-stop' is no part; known: limit, train-step" in capsys.readouterr().err


@pytest.mark.slow
def test_peak_memory_is_a_quarter_of_the_baselines() -> None:
    """At a moderate size, where the activations count and not the libraries' own memory."""
    part = training.memory("cornell-small")
    ratios = {figure.what: figure.ratio for figure in part.figures}
    ratio = ratios["peak memory of training against baseline"]
    assert ratio is not None
    assert ratio >= 4.0


@pytest.mark.slow
def test_memory_of_the_data_does_not_grow_with_the_corpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scale, "SCRATCH", tmp_path)
    figures = {figure.what: figure for figure in scale.scale(2_000, 1_000_000).figures}
    # 8 MB are the order of an epoch; the token ids alone would be 180 MB.
    assert figures["memory held by the data and an epoch's order"].value < 30.0
    packing = figures["packing a batch of 80"]
    assert packing.baseline is not None
    assert packing.value < 3 * packing.baseline
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_training_step_is_faster_than_the_baseline() -> None:
    """A guard against losing it by accident: a third of what an idle machine shows."""
    part = training.train_step("toy", repeats=3, clock=Clock("cpu"))
    ratio = part.figures[0].ratio
    assert ratio is not None
    assert ratio >= 2.0


def test_chosen_batches_are_the_same_conversations_for_all() -> None:
    chosen = Chosen(DATA, 4)
    packed, padded = chosen.packed(1), chosen.padded(1)
    assert sorted(packed.index.tolist()) == sorted(chosen.indices(1))
    assert len(packed.token_ids) == int(padded.num_words.sum())


def test_the_gpus_script_measures_what_params_yaml_says() -> None:
    """It carries the paper's settings itself, since a bare GPU worker has no reader for params.yaml."""
    assert gpu.paper() == Setting.of("cornell")


BARE = """
import sys
from pathlib import Path
# What pyproject.toml names as the needs of a bare worker, and rich, is there; the pipeline's is not.
for absent in "yaml polars pandas matplotlib scipy gensim mlflow prefect dvc typer psutil".split():
    sys.modules[absent] = None
from benchmarks.gpu import main
main(["--device", "cpu", "--tiny", "--minutes", sys.argv[1], "--out", sys.argv[2]])
"""


@pytest.mark.slow
def test_the_gpus_script_needs_nothing_of_the_pipeline_and_keeps_to_its_time(tmp_path: Path) -> None:
    command = [sys.executable, "-c", BARE, "0", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=280)
    assert "left out, the time is up" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_gpus_script_runs_whole_on_a_toy(tmp_path: Path) -> None:
    command = [sys.executable, "-c", BARE, "9", str(tmp_path)]
    subprocess.run(command, check=True, timeout=280, env={**os.environ, "OMP_NUM_THREADS": "1"})
    written = {path.name for path in tmp_path.iterdir()}
    assert {"limit.json", "gpu-agreement.json", "gpu-train-step.json", "gpu-profile.txt"} <= written
    agreement = json.loads((tmp_path / "gpu-agreement.json").read_text(encoding="utf-8"))["figures"]
    values = {figure["what"]: figure["value"] for figure in agreement}
    assert values["loss in float64, relative difference to the CPU"] < 1e-12
    assert 0.0 < values["loss in bfloat16, relative difference"] < 1e-2


def test_the_gpus_script_says_when_there_is_no_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        gpu.main(["--out", str(tmp_path)])
    assert "no usable GPU; --device cpu --tiny" in capsys.readouterr().err


@pytest.mark.slow
def test_processes_share_a_step_and_one_of_them_tells_the_rate() -> None:
    part = processes.processes("toy", repeats=1, steps=1)
    assert [figure.value > 0 for figure in part.figures] == [True] * 3
    assert part.figures[0].ratio == 1.0
    assert part.settings["cores"] == len(os.sched_getaffinity(0))


def test_peak_memory_is_the_commands_own(tmp_path: Path) -> None:
    """A child split off from a large process once counted as large itself."""
    held = bytearray(400_000_000)
    held[::4096] = b"x" * len(held[::4096])  # touched, so that it is there
    small = [sys.executable, "-c", "pass"]
    large = [sys.executable, "-c", "len(bytearray(b'x') * 300_000_000)"]
    assert measure(small, tmp_path, {})[1] < 0.1
    assert 0.3 < measure(large, tmp_path, {})[1] < 0.4
    with pytest.raises(RuntimeError, match="ended with 3"):
        measure([sys.executable, "-c", "raise SystemExit(3)"], tmp_path, {})
