"""Stage evaluate: a trained run -> bounds, responses and their scores, Tables 6 and 7, diagnostics."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from vhcr import layout, recording
from vhcr.errors import DataError
from vhcr.evaluation.evaluate import EvaluationData, evaluate
from vhcr.evaluation.probes import Key
from vhcr.evaluation.records import Evaluation, Protocol
from vhcr.explore.atlas import Atlas
from vhcr.explore.corpus import Corpus
from vhcr.explore.files import write
from vhcr.files import file_digest, read_object, write_json, write_parquet
from vhcr.params import Params
from vhcr.provenance import code_version, dvc_hash, machine, read_run, versions
from vhcr.recording import or_later
from vhcr.registry import register, send_shown
from vhcr.stages.common import clear_finished, stage_main
from vhcr.token_files import Conversations
from vhcr.tokenisation.manifest import Manifest
from vhcr.training.device import choose_device
from vhcr.training.run import TrainedRun
from vhcr.word_vectors import WordVectors

log = logging.getLogger(__name__)

# Of rows that there may be none of; what they hold is said by the rows of vhcr.evaluation.responses.
RESPONSES = pa.schema(
    {
        "conversation_id": pa.string(),
        "num_response_turns": pa.int64(),
        "turn": pa.int64(),
        "context": pa.list_(pa.string()),
        "reference": pa.string(),
        "response": pa.string(),
        "average": pa.float64(),
        "extrema": pa.float64(),
        "greedy": pa.float64(),
    }
)
CONTROL = pa.schema(
    {
        "table": pa.string(),
        "path": pa.string(),
        "example": pa.int64(),
        "position": pa.float64(),
        "sample": pa.int64(),
        "turn": pa.int64(),
        "opening": pa.string(),
        "text": pa.string(),
    }
)
READ = ("test", "validation")  # the splits that an evaluation sees
WRITTEN = ("metrics.json", "provenance.json", "conversations.parquet", "responses.parquet", "control.parquet")


def run(params: Params, corpus: str, system: str, seed: int) -> None:
    """Evaluate one trained system on the test split of its corpus."""
    started = time.monotonic()
    clear_finished()
    merged = params.corpus(corpus)
    source, out = layout.tokenised(corpus), layout.evaluated(corpus, system, seed)
    manifest = Manifest.of(
        source, "labels.parquet", "utterances.parquet", *(f"token_ids/{name}.parquet" for name in READ)
    )
    if merged.training.num_threads:
        torch.set_num_threads(merged.training.num_threads)
    device = str(choose_device(merged.training.device))
    trained = TrainedRun.load(layout.trained(corpus, system, seed), device=device)
    if trained.info["data_hash"] != manifest.data_hash:
        raise DataError(
            f"{trained.folder / 'run.json'}: trained on data {trained.info['data_hash'][:12]}, but {source} "
            f"holds {manifest.data_hash[:12]}: train again"
        )
    test, validation = (
        Conversations.load(
            source / "token_ids" / f"{name}.parquet",
            len(trained.vocabulary),
            max_words=manifest.tokenisation.max_words,
        )
        for name in READ
    )
    vectors_path = layout.embeddings(corpus) / "vectors.bin"
    found = evaluate(
        trained.model,
        trained.vocabulary,
        EvaluationData(test, validation, read_labels(source / "labels.parquet")),
        read_vectors(vectors_path),
        merged.evaluation,
        merged.generation,
    )
    write_parquet(out / "conversations.parquet", found.conversations._asdict())
    write_parquet(out / "responses.parquet", columns(found.responses, RESPONSES), RESPONSES)
    write_parquet(out / "control.parquet", columns(found.control, CONTROL), CONTROL)
    latents = out / "latents"  # a folder of its own, as TensorBoard wants it; empty without z_conv
    latents.mkdir(parents=True, exist_ok=True)
    if trained.model.z_conv_size:
        write(Atlas.of(trained, Corpus.load(trained, "test", source)), latents)
    write_json(out / "metrics.json", found.evaluation.as_json())
    write_json(out / "summary.json", {f"{system}-{seed}": summary(found.evaluation)})
    version = code_version()
    write_json(
        out / "provenance.json",
        {
            "mlflow_run_id": read_run(trained.folder).get("mlflow_run_id"),
            "data_hash": manifest.data_hash,
            "inputs": {
                str(path): dvc_hash(path)
                for path in (source, vectors_path, vectors_path.with_name("metrics.json"))
            },
            "code_version": version.commit,
            "dirty": version.dirty,
            "versions": versions(),
            "machine": machine(),
            "device": torch.cuda.get_device_name() if device.startswith("cuda") else "cpu",
            "seconds": round(time.monotonic() - started, 3),
            "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "protocol": Protocol.of(merged.evaluation, merged.generation).as_json(),
        },
    )
    if recording.available():
        with or_later(f"vhcr register {trained.folder}"):
            registered = register(trained.folder, out)
            send_shown(registered.run_id, corpus, system, seed)
    per_word = (found.evaluation.nll_per_word, found.evaluation.kl_per_word)
    log.info("%s %s %d: nll %.4f, kl %.4f nats per word", corpus, system, seed, *per_word)


def summary(evaluation: Evaluation) -> dict[str, float]:
    """The few numbers that `dvc exp show` and `dvc metrics diff` compare."""
    found = {
        "nll_per_word": evaluation.nll_per_word,
        "kl_conv_per_word": evaluation.kl_conv_per_word,
        "kl_utt_per_word": evaluation.kl_utt_per_word,
    }
    one_turn = evaluation.responses.get(1)
    if one_turn is not None and one_turn.average is not None:
        found["average_1turn"] = one_turn.average
    return found


def columns(rows: Sequence[NamedTuple], schema: pa.Schema) -> dict[str, Sequence[object]]:
    """Rows as columns by name."""
    values = zip(*rows, strict=True) if rows else [()] * len(schema.names)
    return dict(zip(schema.names, values, strict=True))


def read_vectors(path: Path) -> WordVectors:
    """The word vectors of a corpus, held against the digest that the embeddings stage noted beside them.

    Raises:
        DataError: either file is missing or damaged, or they do not belong together.
    """
    vectors = WordVectors.load(path)
    noted = read_object(path.with_name("metrics.json"), "sha256")["sha256"]
    if noted != (found := file_digest(path)):
        raise DataError(
            f"{path}: is not the file that metrics.json beside it names "
            f"(SHA-256 {found[:12]}, expected {str(noted)[:12]}): run the embeddings stage again"
        )
    return vectors


def read_labels(path: Path) -> dict[tuple[str, str], dict[Key, str]]:
    """(level, label) -> (conversation id, turn or None) -> value; empty where a corpus has no labels."""
    try:
        table = pq.read_table(
            path,
            columns=["conversation_id", "turn", "name", "value"],
            page_checksum_verification=True,
        )
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read as Parquet: {error}") from None
    result: dict[tuple[str, str], dict[Key, str]] = {}
    for conversation, turn, name, value in zip(
        *(column.to_pylist() for column in table.columns), strict=True
    ):
        if conversation is None or name is None or value is None:
            raise DataError(f"{path}: the label {name!r} of conversation {conversation!r} holds a null")
        level = "conversation" if turn is None else "utterance"
        result.setdefault((level, name), {})[conversation, turn] = value
    return result


def main() -> None:
    """``python -m vhcr.stages.evaluate --corpus C --system S --seed N``."""
    stage_main(run)


if __name__ == "__main__":
    main()
