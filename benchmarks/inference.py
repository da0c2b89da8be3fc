"""Parts about trained models: the importance-weighted bound, decoding, and answering requests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.baseline import Baseline, PaddedBatch
from benchmarks.contestants import Chosen, Setting
from benchmarks.measure import Clock, Part, alternate
from vhcr.batch import pack
from vhcr.evaluation.likelihood import LogWeights, importance_weighted_nll, log_weights
from vhcr.generation.respond import Responder
from vhcr.models import HierarchicalModel, Noise
from vhcr.models.gaussian import sampled_kl
from vhcr.models.kernels.precision import products_in
from vhcr.models.objective import elbo
from vhcr.params import GenerationParams
from vhcr.token_files import Conversations
from vhcr.tokenisation.specials import EOS, SPECIALS
from vhcr.tokenisation.vocabulary import Vocabulary
from vhcr.training.run import RunParams, TrainedRun


def importance(
    setting: Setting,
    data: Conversations,
    name: str,
    repeats: int,
    clock: Clock,
    device: str = "cpu",
    num_conversations: int = 16,
    num_samples: int = 100,
) -> Part:
    """The importance-weighted bound with many samples at once, against as many separate passes.

    Separate passes are timed on some of the samples only and scaled up.
    """
    settings = {"conversations": num_conversations, "samples": num_samples, "clock": clock.kind}
    part = Part(f"importance-{setting.name}", {**setting.describe(name), **settings})
    model = setting.model(device).eval()
    plain = Baseline(model, pad_turns=True).to(device).eval()
    tight = Baseline(model, pad_turns=False).to(device).eval()
    rng = np.random.default_rng(0)
    chosen = [int(index) for index in rng.choice(len(data), num_conversations, replace=False)]
    few = 2

    def passes(number: int) -> None:
        with torch.inference_mode():
            for sample in range(few):
                batch = data.batch(chosen, 1, number * few + sample).to(device)
                elbo(model(batch, Noise(0), divergence=sampled_kl))

    def plain_passes(baseline: Baseline) -> None:
        with torch.inference_mode():
            for _ in range(few):
                baseline(PaddedBatch.of(data, chosen).to(device))

    def short(number: int) -> LogWeights:
        with products_in("bfloat16", torch.device(device)):
            return log_weights(model, data, chosen, num_samples, seed=number)

    seconds = alternate(
        {
            "short": short,
            "ours": lambda number: log_weights(model, data, chosen, num_samples, seed=number),
            "separate": passes,
            "padded": lambda _: plain_passes(plain),
            "tight": lambda _: plain_passes(tight),
        },
        repeats,
        clock,
        warm_up=0,
    )
    rows = (
        ("separate", "separate passes of our model", ""),
        ("padded", "separate passes of the baseline", "≥ 10"),
        ("tight", "separate passes of the baseline, real turns only", ""),
    )
    for kind, what, target in rows:
        theirs = seconds[kind] * num_samples / few
        part.add(
            f"K = {num_samples} against {what}",
            seconds["ours"],
            "s",
            baseline=theirs,
            ratio=theirs / seconds["ours"],
            target=target,
        )
    part.add(
        f"K = {num_samples} in bfloat16 against float32",
        seconds["short"],
        "s",
        baseline=seconds["ours"],
        ratio=seconds["ours"] / seconds["short"],
        target="≥ 3 with AMX",
    )
    words = sum(len(ids) for index in chosen for ids in data.utterances(index))
    low, long = (
        importance_weighted_nll(weights, num_samples).sum()
        for weights in (short(0), log_weights(model, data, chosen, num_samples, seed=0))
    )
    part.add("what bfloat16 changes of it", float(low - long) / words, "nats a word", target="< 0.001")
    return part


def talkative(
    model: HierarchicalModel, respond: Callable[[], Sequence[Sequence[int]]], mean_words: float = 8.0
) -> None:
    """Make an untrained model end its utterances about when a trained one does.

    The row of EOS is made larger, so that its logit swings from word to word and from context to context,
    and its bias is then found by bisection.
    """
    layer = model.decoder.output.linear
    low, high = -100.0, 100.0
    with torch.no_grad():
        layer.weight[EOS] *= 20.0
        for _ in range(20):
            layer.bias[EOS] = (low + high) / 2
            if np.mean([len(ids) for ids in respond()]) > mean_words:
                low = (low + high) / 2
            else:
                high = (low + high) / 2


def decoding(
    setting: Setting,
    data: Conversations,
    name: str,
    repeats: int,
    clock: Clock,
    device: str = "cpu",
    num_contexts: int = 320,
) -> Part:
    """Greedy responses to first turns of the test split, against the baseline's; beam 5 against greedy."""
    settings = {"contexts": num_contexts, "clock": clock.kind}
    part = Part(f"decoding-{setting.name}", {**setting.describe(name), **settings})
    model = setting.model(device).eval()
    some = Chosen(data, num_contexts)
    contexts = [data.utterances(index)[:1] for index in some.indices(0)]
    firsts = _first_turns(contexts)

    def responder(strategy: str, *, want_log_probs: bool = False) -> Responder:
        params = GenerationParams.model_validate({**setting.generation.model_dump(), "strategy": strategy})
        return Responder(model, params, Noise(0), latent_scale=0.0, want_log_probs=want_log_probs)

    def respond(strategy: str, count: int = num_contexts, **rest: bool) -> list[list[int]]:
        speaking = responder(strategy, **rest).respond(contexts[:count])
        return [turns[0] for turns in speaking.token_ids]

    talkative(model, lambda: respond("greedy", 40))
    plain = Baseline(model, pad_turns=True).to(device).eval()
    size = setting.batch_conversations
    padded = [
        PaddedBatch.of(firsts, list(range(first, min(first + size, num_contexts)))).to(device)
        for first in range(0, num_contexts, size)
    ]

    def plain_respond() -> list[list[int]]:
        return [response for batch in padded for response in plain.respond(batch)]

    said = respond("greedy")
    lengths = np.array([len(ids) for ids in said])
    same = float(np.mean([a == b for a, b in zip(said, plain_respond(), strict=True)]))
    heard = responder("greedy").read(pack(contexts, range(num_contexts)))
    plain_heard = [plain.read(batch) for batch in padded]
    seconds = alternate(
        {
            "greedy": lambda _: respond("greedy"),
            "every": lambda _: respond("greedy", want_log_probs=True),
            "beam": lambda _: respond("beam"),
            "plain": lambda _: plain_respond(),
            "words": lambda _: responder("greedy").next_turn(heard),
            "plain words": lambda _: [plain.next_turn(states) for states in plain_heard],
        },
        repeats,
        clock,
        warm_up=0,
    )
    for ours, theirs, what, note in (
        ("greedy", "plain", f"greedy responses to {num_contexts} contexts", f"{100 * same:.0f} % equal"),
        ("words", "plain words", "of that: words, once the contexts are heard", ""),
    ):
        part.add(
            what,
            seconds[ours],
            "s",
            baseline=seconds[theirs],
            ratio=seconds[theirs] / seconds[ours],
            target="≥ 10",
            note=note or f"{lengths.mean():.1f} ± {lengths.std():.1f} words",
        )
    part.add("beam of 5, times greedy", seconds["beam"] / seconds["greedy"], "x", target="≤ 4")
    part.add(
        "beam of 5, times greedy with log p",
        seconds["beam"] / seconds["every"],
        "x",
        note="that computes every logit, as a beam must",
    )
    return part


def serving(
    setting: Setting,
    data: Conversations,
    name: str,
    repeats: int,
    clock: Clock,
    num_contexts: int = 64,
    num_turns: int = 2,
) -> Part:
    """One request with many contexts, against generation alone and against as many requests of one."""
    # Text needs polars, which a bare GPU worker has not.
    from vhcr.generation.text import to_ids_all
    from vhcr.serving.answer import Answerer

    settings = {"contexts": num_contexts, "turns": num_turns, "clock": clock.kind}
    part = Part(f"serving-{setting.name}", {**setting.describe(name), **settings})
    model = setting.model().eval()
    words = Vocabulary(
        [*SPECIALS, *(f"w{number}" for number in range(setting.vocabulary_size - len(SPECIALS)))]
    )
    run = TrainedRun(
        Path(),
        {},
        RunParams(model=setting.model_params, system=setting.system, training=setting.training),
        words,
        model,
    )
    answerer = Answerer.of(run, setting.generation)
    contexts = [data.utterances(index) for index in Chosen(data, num_contexts).indices(0)]
    texts = [[" ".join(f"w{number}" for number in ids[:-1]) or "w0" for ids in turns] for turns in contexts]
    heard = [to_ids_all(context, words, setting.generation.max_words) for context in texts]
    speaker = Responder(model, setting.generation, Noise(0))
    talkative(model, lambda: [turns[0] for turns in speaker.respond(heard).token_ids])

    asked = {"num_turns": num_turns}
    seconds = alternate(
        {
            "request": lambda _: answerer.answer(texts, asked),
            "generation": lambda _: speaker.respond(heard, num_turns, index=[0] * num_contexts),
            "single": lambda _: [answerer.answer([context], asked) for context in texts],
        },
        repeats,
        clock,
    )
    what = f"{num_contexts} contexts x {num_turns} turns in one request"
    for kind, against, target in (
        ("generation", "generation alone", "≥ 0.9"),
        ("single", "as many requests", ""),
    ):
        part.add(
            f"{what}, against {against}",
            seconds["request"],
            "s",
            baseline=seconds[kind],
            ratio=seconds[kind] / seconds["request"],
            target=target,
        )
    return part


def _first_turns(contexts: list[list[np.ndarray]]) -> Conversations:
    """The contexts as a data set of their own."""
    tokens = np.concatenate([turns[0] for turns in contexts])
    words = np.array([len(turns[0]) for turns in contexts], dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum(words)])
    ids = [f"c{number}" for number in range(len(contexts))]
    return Conversations(ids, tokens, offsets, np.arange(len(contexts) + 1, dtype=np.int64))
