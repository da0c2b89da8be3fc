"""Stage evaluate: a trained run -> bounds, responses and their scores, Tables 6 and 7, diagnostics."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from vhcr import layout, recording
from vhcr.batch import Conversations
from vhcr.diagnostics import latents as diagnostics
from vhcr.diagnostics.probes import probe
from vhcr.errors import DataError
from vhcr.evaluation.embedding_metrics import (
    METRIC_VERSION,
    embedding_diversity,
    embedding_scores,
    response_metrics,
)
from vhcr.evaluation.likelihood import (
    importance_subset,
    importance_weighted_nll,
    log_weights,
    perplexity,
    score,
)
from vhcr.evaluation.text_metrics import distinct, distinct_responses, text_metrics
from vhcr.generation import control
from vhcr.generation.respond import Continuation, Responder
from vhcr.models import Noise
from vhcr.params import EvaluationParams, GenerationParams, Params
from vhcr.provenance import code_version, dvc_hash, machine, versions
from vhcr.recording import or_later
from vhcr.registry import register, send_shown
from vhcr.stages.common import stage_main
from vhcr.training.run import TrainedRun, choose_device
from vhcr.word_vectors import WordVectors

log = logging.getLogger(__name__)

CONTROL = pa.schema(
    {
        "table": pa.string(),  # "interpolation" (Table 6) or "fixed" (Table 7)
        "path": pa.string(),  # "linear" or "spherical"; null for Table 7
        "example": pa.int64(),  # number of the pair, or of the fixed z_conv
        "position": pa.float64(),  # 0 to 1 on the path; null for Table 7
        "sample": pa.int64(),
        "turn": pa.int64(),
        "opening": pa.string(),  # the first utterance where it is given, else null
        "text": pa.string(),
    }
)

WRITTEN = ("metrics.json", "provenance.json", "conversations.parquet", "responses.parquet", "control.parquet")
BOUND_SAMPLES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)  # points of the convergence plot, up to K


def run(params: Params, corpus: str, system: str, seed: int) -> None:
    """Evaluate one trained system on the test split of its corpus."""
    started = time.monotonic()
    merged = params.corpus(corpus)
    source, out = layout.tokenised(corpus), layout.evaluated(corpus, system, seed)
    manifest = layout.read_json(source / "manifest.json")
    if merged.training.num_threads:
        torch.set_num_threads(merged.training.num_threads)
    device = str(choose_device(merged.training.device))
    trained = TrainedRun.load(layout.trained(corpus, system, seed), device=device)
    if trained.info["data_hash"] != manifest["data_hash"]:
        raise DataError(
            f"{trained.folder / 'run.json'}: trained on data {trained.info['data_hash'][:12]}, but {source} "
            f"holds {manifest['data_hash'][:12]}: train again"
        )
    splits = {
        name: Conversations.load(source / "token_ids" / f"{name}.parquet", len(trained.vocabulary))
        for name in ("validation", "test")
    }
    vectors_path = layout.embeddings(corpus) / "vectors.bin"
    vectors = WordVectors.load(vectors_path)
    evaluation, generation = merged.evaluation, merged.generation

    conversations, metrics = likelihood(trained, splits["test"], evaluation)
    responses, metrics["responses"] = generate(trained, splits["test"], vectors, evaluation, generation)
    metrics["diversity"] = diversity(trained, splits["test"], vectors, evaluation, generation)
    metrics["diagnostics"] = diagnose(trained, splits, read_labels(source / "labels.parquet"), evaluation)

    layout.write_parquet(out / "conversations.parquet", conversations)
    layout.write_parquet(out / "responses.parquet", responses)
    layout.write_parquet(
        out / "control.parquet", controlled(trained, splits["test"], evaluation, generation), CONTROL
    )
    layout.write_json(out / "metrics.json", metrics)
    layout.write_json(out / "summary.json", {f"{system}-{seed}": summary(metrics)})
    mlflow_run_id = layout.read_run(trained.folder).get("mlflow_run_id")
    version = code_version()
    layout.write_json(
        out / "provenance.json",
        {
            "mlflow_run_id": mlflow_run_id,
            "data_hash": manifest["data_hash"],
            "inputs": {str(path): dvc_hash(path) for path in (source, vectors_path)},
            "code_version": version.commit,
            "dirty": version.dirty,
            "versions": versions(),
            "machine": machine(),
            "device": torch.cuda.get_device_name() if device.startswith("cuda") else "cpu",
            "seconds": round(time.monotonic() - started, 3),
            "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "protocol": protocol(evaluation, generation),
        },
    )
    if recording.available():
        with or_later(f"vhcr register {trained.folder}"):
            registered = register(trained.folder, out)
            send_shown(registered.run_id, corpus, system, seed)
    per_word = (metrics["nll_per_word"], metrics["kl_per_word"])
    log.info("%s %s %d: nll %.4f, kl %.4f nats per word", corpus, system, seed, *per_word)


def summary(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The few of metrics.json that `dvc exp show` and `dvc metrics diff` compare."""
    found = {name: metrics[name] for name in ("nll_per_word", "kl_conv_per_word", "kl_utt_per_word")}
    average = metrics["responses"].get("1", {}).get("average")
    return found if average is None else found | {"average_1turn": average}


def protocol(evaluation: EvaluationParams, generation: GenerationParams) -> dict[str, Any]:
    """What the numbers of ``metrics.json`` are of, in one place; docs/metrics.md says it in prose."""
    return {
        "metric_version": METRIC_VERSION,
        "split": "test",
        "words": "every target word of a scored utterance, EOS and UNK counted",
        "unit": "nats per word",
        "bound": "one sample per latent, analytic KL",
        "context": f"the first {evaluation.context_turns} turns",
        "references": "the turns that follow, as token ids decoded; shorter conversations are left out",
        "feedback": "generated turns are fed back",
        "importance_weighting": (
            f"{evaluation.importance_samples} posterior samples a conversation, on at most "
            f"{evaluation.importance_conversations} test conversations drawn at random by the seed"
        ),
        "diagnostics": (
            f"the first {evaluation.importance_conversations} test conversations (all where the corpus has "
            "labels), scored utterances only"
        ),
        "evaluation": evaluation.model_dump(mode="json"),
        "generation": generation.model_dump(mode="json"),
    }


def likelihood(
    trained: TrainedRun, test: Conversations, params: EvaluationParams
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Section 4.2: per-conversation columns, and the numbers of Tables 1 and 2."""
    scores = score(trained.model, test, params.batch_conversations, params.seed)
    columns: dict[str, Any] = {
        "conversation_id": list(test.ids),
        "num_words": scores.num_words.astype(np.int64),
        "nll": scores.nll,
        "reconstruction_error": scores.reconstruction_error,
        "kl_conv": scores.kl_conv,
        "kl_utt": scores.kl_utt,
    }
    exact = trained.params.system.architecture == "hred"
    metrics: dict[str, Any] = {
        "metric_version": METRIC_VERSION,
        "num_conversations": len(test),
        "num_words": int(scores.num_words.sum()),
        **scores.per_word(),
        "bound_is_exact": exact,
        "nll_by_turn": scores.nll_per_word_by_turn(),
        "kl_utt_by_turn": scores.kl_per_word_by_turn(),
        "by_utterance_length": scores.by_utterance_length(),
        "reconstruction_by_word_position": scores.reconstruction_by_word_position(),
    }
    metrics["perplexity"] = perplexity(metrics["nll_per_word"])
    chosen = importance_subset(len(test), params.importance_conversations, params.seed)
    words = max(float(scores.num_words[chosen].sum()), 1.0)
    metrics["importance_bound_num_conversations"] = len(chosen)
    metrics["importance_bound_subset_nll_per_word"] = float(scores.nll[chosen].sum() / words)
    column: list[float | None] = [None] * len(test)
    columns["importance_weighted_nll"] = column
    if exact:
        metrics["importance_weighted_nll_per_word"] = {"1": metrics["importance_bound_subset_nll_per_word"]}
        for index in chosen.tolist():
            column[index] = float(scores.nll[index])
        return columns, metrics
    weights = log_weights(trained.model, test, chosen.tolist(), params.importance_samples, params.seed)
    points = [k for k in BOUND_SAMPLES if k < params.importance_samples] + [params.importance_samples]
    bounds = {k: importance_weighted_nll(weights, k) for k in points}
    metrics["importance_weighted_nll_per_word"] = {str(k): float(b.sum() / words) for k, b in bounds.items()}
    for index, value in zip(chosen.tolist(), bounds[points[-1]].tolist(), strict=True):
        column[index] = value
    return columns, metrics


def generate(
    trained: TrainedRun,
    test: Conversations,
    vectors: WordVectors,
    evaluation: EvaluationParams,
    generation: GenerationParams,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Section 4.3: responses to every test context that goes on long enough, and their scores (Table 3)."""
    decode = trained.vocabulary.decode
    responder = Responder(trained.model, generation, Noise(evaluation.seed), want_log_probs=False)
    table: dict[str, list[Any]] = {
        name: []
        for name in (
            "conversation_id", "num_response_turns", "turn", "context", "reference", "response",
            "average", "extrema", "greedy",
        )
    }  # fmt: skip
    metrics: dict[str, Any] = {}
    for length in evaluation.response_turns:
        chosen = np.flatnonzero(test.num_turns >= evaluation.context_turns + length)
        if len(chosen) == 0:
            metrics[str(length)] = {"num_pairs": 0, "num_dropped": 0}
            continue
        contexts = [test.utterances(index)[: evaluation.context_turns] for index in chosen.tolist()]
        spoken = responder.respond(contexts, length, index=chosen.tolist()).token_ids
        references, responses, turns = [], [], []
        for index, generated in zip(chosen.tolist(), spoken, strict=True):
            real = [decode(ids) for ids in test.utterances(index)]
            context = [" ".join(words) for words in real[: evaluation.context_turns]]
            for turn, ids in enumerate(generated):
                references.append(real[evaluation.context_turns + turn])
                responses.append(decode(ids))
                turns.append(turn)
                table["conversation_id"].append(test.ids[index])
                table["num_response_turns"].append(length)
                table["turn"].append(turn)
                table["context"].append(context)
                table["reference"].append(" ".join(references[-1]))
                table["response"].append(" ".join(responses[-1]))
        scored = embedding_scores(references, responses, vectors, "release")
        for name, values in scored._asdict().items():
            table[name].extend(values.tolist())
        metrics[str(length)] = {
            **response_metrics(references, responses, turns, vectors),
            **text_metrics(references, responses),
        }
    return table, metrics


def diversity(
    trained: TrainedRun,
    test: Conversations,
    vectors: WordVectors,
    evaluation: EvaluationParams,
    generation: GenerationParams,
) -> dict[str, Any]:
    """How much several responses to one context differ, by decoding.

    Once as responses are decoded in Table 3, where all that differs comes from the latents unless words are
    sampled there, and once with every word sampled. The first sample is the response of Table 3.
    """
    wanted, decode = evaluation.diversity, trained.vocabulary.decode
    fit = np.flatnonzero(test.num_turns > evaluation.context_turns)
    drawn = np.random.Generator(np.random.Philox(key=evaluation.seed)).permutation(fit)
    chosen = np.sort(drawn[: wanted.num_contexts]).tolist()
    result: dict[str, Any] = {"num_contexts": len(chosen), "num_samples": wanted.num_samples}
    contexts = [test.utterances(index)[: evaluation.context_turns] for index in chosen]
    sampling = {"strategy": "sample", "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    ways = {generation.strategy: generation}
    ways.setdefault("sample", generation.model_copy(update=sampling))
    for name, params in ways.items():
        if not chosen:
            break
        responder = Responder(trained.model, params, Noise(evaluation.seed), want_log_probs=False)
        said = responder.respond(contexts, 1, index=chosen, samples=wanted.num_samples).token_ids
        words = [decode(turns[0]) for turns in said]
        groups = [
            words[first : first + wanted.num_samples] for first in range(0, len(words), wanted.num_samples)
        ]
        result[name] = {
            "embedding_diversity": embedding_diversity(groups, vectors),
            "distinct_responses": distinct_responses(groups),
            "distinct_1": distinct(words, 1),
            "distinct_2": distinct(words, 2),
        }
    return result


def controlled(
    trained: TrainedRun, test: Conversations, evaluation: EvaluationParams, generation: GenerationParams
) -> dict[str, list[Any]]:
    """Tables 6 and 7: conversations along paths between two z_conv, and several from one z_conv.

    Empty for a model without z_conv. One that never says the first utterance (reading ``release``) is given
    that of a test conversation drawn by the seed. Columns as ``CONTROL``.
    """
    rows: dict[str, list[Any]] = {name: [] for name in CONTROL.names}
    wanted, decode = evaluation.control, trained.vocabulary.decode
    if trained.model.z_conv_size == 0:
        return rows
    responder = Responder(trained.model, generation, Noise(evaluation.seed), want_log_probs=False)
    opening: list[int] | None = None
    if not trained.model.reading.scores_first_utterance:
        drawn = np.random.Generator(np.random.Philox(key=evaluation.seed)).integers(len(test))
        opening = test.utterances(int(drawn))[0].tolist()

    def keep(
        table: str, path: str | None, example: int, places: list[float | None], made: Continuation
    ) -> None:
        samples = len(made.token_ids) // len(places)
        for number, turns in enumerate(made.token_ids):
            for turn, ids in enumerate(turns):
                row = (table, path, example, places[number // samples], number % samples, turn)
                given = None if opening is None else " ".join(decode(opening))
                for name, value in zip(CONTROL.names, (*row, given, " ".join(decode(ids))), strict=True):
                    rows[name].append(value)

    ends = control.prior_z_conv(responder, 2 * wanted.num_pairs)
    places: list[float | None] = [i / (wanted.num_points - 1) for i in range(wanted.num_points)]
    for example in range(wanted.num_pairs):
        for path in get_args(control.Way):
            z_conv = control.interpolate(ends[2 * example], ends[2 * example + 1], wanted.num_points, path)
            made = control.from_z_conv(responder, z_conv, wanted.num_turns, same_noise=True, opening=opening)
            keep("interpolation", path, example, places, made)
    fixed = control.prior_z_conv(responder, wanted.num_fixed, first=len(ends))
    for example in range(wanted.num_fixed):
        made = control.from_z_conv(
            responder,
            fixed[example : example + 1],
            wanted.num_turns,
            samples=wanted.num_samples,
            opening=opening,
        )
        keep("fixed", None, example, [None], made)
    return rows


def diagnose(
    trained: TrainedRun,
    splits: Mapping[str, Conversations],
    labels: Mapping[tuple[str, str], Mapping[tuple[str, int | None], str]],
    params: EvaluationParams,
) -> dict[str, Any]:
    """Is z used? Section 3.4 and the usual diagnostics, on the first ``importance_conversations``.

    On a corpus with labels all are taken, of the validation split too: probes are fitted there.
    """
    model, size, limit = trained.model, params.batch_conversations, params.importance_conversations
    found = {
        name: diagnostics.gather(model, data, len(data) if labels else limit, size, params.seed)
        for name, data in splits.items()
        if labels or name == "test"
    }
    test = found["test"]
    result: dict[str, Any] = {}
    if test.prior_utt is not None and test.posterior_utt is not None:
        result["prior_variance_ratio"] = diagnostics.moments(test.prior_utt).variance_ratio()
        result["active_units_utt"] = diagnostics.moments(test.posterior_utt).active_units()
        result["kl_utt_per_dimension"] = diagnostics.kl_per_dimension(test.posterior_utt, test.prior_utt)
        result["mutual_information_utt"] = information(test.posterior_utt, test.conversation < limit, params)
        sources = diagnostics.reconstruction_by_source(model, splits["test"], limit, size, params.seed)
        result["reconstruction_per_word_by_source"] = {name: s.per_word for name, s in sources.items()}
        result["reconstruction_by_word_position_by_source"] = {
            name: sources[name].by_position for name in ("posterior", "prior")
        }
    if test.posterior_conv is not None:
        result["active_units_conv"] = diagnostics.moments(test.posterior_conv).active_units()
        result["kl_conv_per_dimension"] = diagnostics.kl_per_dimension(test.posterior_conv, None)
        result["mutual_information_conv"] = information(test.posterior_conv, slice(limit), params)
    if labels:
        result["probe"] = probe_labels(found, splits, labels, params.seed)
    return result


def information(
    posterior: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]], chosen: Any, params: EvaluationParams
) -> dict[str, float | int]:
    """I(x; z) with its standard error, and the number of posteriors, whose log is the most it can be."""
    mu, var = (values[chosen] for values in posterior)
    estimate, error = diagnostics.mutual_information((mu, var), params.seed)
    return {"estimate": estimate, "standard_error": error, "num_posteriors": len(mu)}


def probe_labels(
    found: Mapping[str, diagnostics.Gathered],
    splits: Mapping[str, Conversations],
    labels: Mapping[tuple[str, str], Mapping[tuple[str, int | None], str]],
    seed: int,
) -> dict[str, Any]:
    """For each label, what linear probes read from each representation: accuracy beside chance."""
    result: dict[str, Any] = {}
    for (level, label), values in sorted(labels.items()):
        of_conversation = level == "conversation"
        examples = {
            split: representations(gathered, splits[split], of_conversation, seed)
            for split, gathered in found.items()
        }
        for name in examples["test"]:
            sides = {}
            for split, available in examples.items():
                keys, matrix = available[name]
                kept = [i for i, key in enumerate(keys) if key in values]
                sides[split] = (matrix[kept], [values[keys[i]] for i in kept])
            outcome = probe(*sides["validation"], *sides["test"])
            if outcome is not None:
                result.setdefault(label, {"chance": outcome.chance, "num_test": outcome.num_test})
                result[label][name] = outcome.accuracy
    return result


def representations(
    gathered: diagnostics.Gathered, data: Conversations, of_conversation: bool, seed: int
) -> dict[str, tuple[list[tuple[str, int | None]], np.ndarray[Any, Any]]]:
    """Per representation its keys (conversation id, turn or None) and vectors [examples, size].

    Of a latent, the posterior's mean and one draw: to a linear probe the mean's scale is nothing, so it may
    tell what lies far below the noise; a draw tells no more than the KL lets through.
    """
    ids = data.ids
    if of_conversation:
        last = np.flatnonzero(np.append(gathered.conversation[1:] != gathered.conversation[:-1], True))
        keys: list[tuple[str, int | None]] = [(ids[int(i)], None) for i in gathered.conversation[last]]
        found = {"h_cxt": (keys, gathered.h_cxt[last])}
        if gathered.posterior_conv is not None:
            # A row for each, of one turn too, of which the release's reading scores no utterance.
            everyone: list[tuple[str, int | None]]
            everyone = [(name, None) for name in ids[: len(gathered.posterior_conv[0])]]
            found["z_conv"] = (everyone, gathered.posterior_conv[0])
            found["z_conv_drawn"] = (everyone, diagnostics.drawn(gathered.posterior_conv, seed))
        return found
    keys = [(ids[int(c)], int(t)) for c, t in zip(gathered.conversation, gathered.turn, strict=True)]
    found = {"h_cxt": (keys, gathered.h_cxt)}
    if gathered.posterior_utt is not None:
        found["z_utt"] = (keys, gathered.posterior_utt[0])
        found["z_utt_drawn"] = (keys, diagnostics.drawn(gathered.posterior_utt, seed))
    return found


def read_labels(path: Path) -> dict[tuple[str, str], dict[tuple[str, int | None], str]]:
    """(level, label) -> (conversation id, turn or None) -> value; empty where a corpus has no labels."""
    try:
        table = pq.read_table(path, columns=["conversation_id", "turn", "name", "value"])
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read as Parquet: {error}") from None
    result: dict[tuple[str, str], dict[tuple[str, int | None], str]] = {}
    for conversation, turn, name, value in zip(
        *(column.to_pylist() for column in table.columns), strict=True
    ):
        level = "conversation" if turn is None else "utterance"
        result.setdefault((level, name), {})[conversation, turn] = value
    return result


def main() -> None:
    """``python -m vhcr.stages.evaluate --corpus C --system S --seed N``."""
    stage_main(run)


if __name__ == "__main__":
    main()
