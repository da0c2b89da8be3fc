"""Stage evaluate: a trained run -> likelihood bounds, responses and their scores, diagnostics."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from vhcr import layout, recording
from vhcr.batch import Conversations
from vhcr.diagnostics import latents as diagnostics
from vhcr.diagnostics.probes import probe
from vhcr.errors import DataError
from vhcr.evaluation.embedding_metrics import METRIC_VERSION, WordVectors, embedding_scores, response_metrics
from vhcr.evaluation.likelihood import importance_weighted_nll, log_weights, score
from vhcr.evaluation.text_metrics import text_metrics
from vhcr.generation.respond import Responder
from vhcr.models import Noise
from vhcr.params import EvaluationParams, GenerationParams, Params
from vhcr.provenance import code_version, machine, versions
from vhcr.recording import MlflowRun, experiment_name
from vhcr.stages.common import stage_main
from vhcr.training.run import TrainedRun, choose_device

log = logging.getLogger(__name__)

BOUND_SAMPLES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)  # points of the convergence plot, up to K


def run(params: Params, corpus: str, system: str, seed: int) -> None:
    """Evaluate one trained system on the test split of its corpus."""
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
    vectors = WordVectors.load(layout.embeddings(corpus) / "vectors.bin")
    evaluation, generation = merged.evaluation, merged.generation

    conversations, metrics = likelihood(trained, splits["test"], evaluation)
    responses, metrics["responses"] = generate(trained, splits["test"], vectors, evaluation, generation)
    metrics["diagnostics"] = diagnose(trained, splits, read_labels(source / "labels.parquet"), evaluation)

    _write_table(out / "conversations.parquet", conversations)
    _write_table(out / "responses.parquet", responses)
    layout.write_json(out / "metrics.json", metrics)
    version = code_version()
    layout.write_json(
        out / "provenance.json",
        {
            "mlflow_run_id": trained.info["mlflow_run_id"],
            "data_hash": manifest["data_hash"],
            "code_version": version.commit,
            "dirty": version.dirty,
            "versions": versions(),
            "machine": machine(),
            "protocol": protocol(evaluation, generation),
        },
    )
    if trained.info["mlflow_run_id"] is not None and recording.available():
        with MlflowRun.start(
            experiment_name(corpus), f"{system}-{seed}", {}, {}, run_id=trained.info["mlflow_run_id"]
        ) as tracked:
            tracked.log_metrics(
                {f"test/{name}": value for name, value in _numbers(metrics)}, step=trained.info["best_step"]
            )
            tracked.log_artifacts([out / "metrics.json", out / "responses.parquet"], "evaluation")
    per_word = (metrics["nll_per_word"], metrics["kl_per_word"])
    log.info("%s %s %d: nll %.4f, kl %.4f nats per word", corpus, system, seed, *per_word)


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
    }
    metrics["perplexity"] = float(np.exp(metrics["nll_per_word"]))
    chosen = np.sort(
        np.random.Generator(np.random.Philox(key=params.seed)).permutation(len(test))[
            : params.importance_conversations
        ]
    )
    words = max(float(scores.num_words[chosen].sum()), 1.0)
    metrics["importance_bound_num_conversations"] = len(chosen)
    metrics["importance_bound_subset_nll_per_word"] = float(scores.nll[chosen].sum() / words)
    if exact:
        metrics["importance_weighted_nll_per_word"] = {"1": metrics["importance_bound_subset_nll_per_word"]}
        return columns, metrics
    weights = log_weights(trained.model, test, chosen.tolist(), params.importance_samples, params.seed)
    points = [k for k in BOUND_SAMPLES if k < params.importance_samples] + [params.importance_samples]
    bounds = {k: importance_weighted_nll(weights, k) for k in points}
    metrics["importance_weighted_nll_per_word"] = {str(k): float(b.sum() / words) for k, b in bounds.items()}
    column: list[float | None] = [None] * len(test)
    for index, value in zip(chosen.tolist(), bounds[points[-1]].tolist(), strict=True):
        column[index] = value
    columns["importance_weighted_nll"] = column
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


def diagnose(
    trained: TrainedRun,
    splits: Mapping[str, Conversations],
    labels: Mapping[tuple[str, str], Mapping[tuple[str, int | None], str]],
    params: EvaluationParams,
) -> dict[str, Any]:
    """Is z used? Section 3.4 and the usual diagnostics, on the conversations of the importance bound."""
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
        sources = diagnostics.reconstruction_by_source(model, splits["test"], limit, size, params.seed)
        result["reconstruction_per_word_by_source"] = sources
    if test.posterior_conv is not None:
        result["active_units_conv"] = diagnostics.moments(test.posterior_conv).active_units()
        result["kl_conv_per_dimension"] = diagnostics.kl_per_dimension(test.posterior_conv, None)
        estimate, error = diagnostics.mutual_information(test.posterior_conv, params.seed)
        result["mutual_information_conv"] = {"estimate": estimate, "standard_error": error}
    if labels:
        result["probe"] = probe_labels(found, splits, labels)
    return result


def probe_labels(
    found: Mapping[str, diagnostics.Gathered],
    splits: Mapping[str, Conversations],
    labels: Mapping[tuple[str, str], Mapping[tuple[str, int | None], str]],
) -> dict[str, Any]:
    """For each label, what linear probes read from each representation: accuracy beside chance."""
    result: dict[str, Any] = {}
    for (level, label), values in sorted(labels.items()):
        of_conversation = level == "conversation"
        examples = {
            split: representations(gathered, splits[split], of_conversation)
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
    gathered: diagnostics.Gathered, data: Conversations, of_conversation: bool
) -> dict[str, tuple[list[tuple[str, int | None]], np.ndarray[Any, Any]]]:
    """Per representation its keys (conversation id, turn or None) and vectors [examples, size]."""
    ids = data.ids
    if of_conversation:
        last = np.flatnonzero(np.append(gathered.conversation[1:] != gathered.conversation[:-1], True))
        keys: list[tuple[str, int | None]] = [(ids[int(i)], None) for i in gathered.conversation[last]]
        found = {"h_cxt": (keys, gathered.h_cxt[last])}
        if gathered.posterior_conv is not None:
            found["z_conv"] = (keys, gathered.posterior_conv[0])
        return found
    keys = [(ids[int(c)], int(t)) for c, t in zip(gathered.conversation, gathered.turn, strict=True)]
    found = {"h_cxt": (keys, gathered.h_cxt)}
    if gathered.posterior_utt is not None:
        found["z_utt"] = (keys, gathered.posterior_utt[0])
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


def _write_table(path: Path, columns: Mapping[str, Sequence[Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        pq.write_table(pa.table(dict(columns)), temporary, compression="zstd")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _numbers(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    """Every number of a nested mapping under its path."""
    result: list[tuple[str, float]] = []
    for name, value in tree.items():
        if isinstance(value, Mapping):
            result.extend(_numbers(value, f"{prefix}{name}/"))
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            result.append((f"{prefix}{name}", float(value)))
    return result


def main() -> None:
    """``python -m vhcr.stages.evaluate --corpus C --system S --seed N``."""
    stage_main(run)


if __name__ == "__main__":
    main()
