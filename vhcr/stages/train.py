"""Stage train: token ids -> a trained run in a folder of its own."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import signal
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vhcr import layout, recording
from vhcr.conversation import SPLITS
from vhcr.errors import DataError, HeldError, TrainingError
from vhcr.files import flatten, locked, place, read_text, write_json, write_text
from vhcr.models import KneserNey, build
from vhcr.models.objective import kl_weight
from vhcr.params import Params, TrainingParams
from vhcr.provenance import code_version, dvc_hash, machine, versions
from vhcr.recording import (
    MlflowRun,
    experiment_name,
    group_of,
    import_run,
    or_later,
    run_tags,
    send_trained,
    settle,
)
from vhcr.stages.common import FINISHED, clear_finished, stage_main
from vhcr.token_files import Conversations
from vhcr.tokenisation.manifest import Manifest
from vhcr.tokenisation.verdict import require_valid
from vhcr.tokenisation.vocabulary import Vocabulary
from vhcr.training.device import choose_device, set_up_cpu
from vhcr.training.estimate import Estimate, estimate
from vhcr.training.loop import Interrupted, Observer, Progress, adam, fit
from vhcr.training.parallel import join
from vhcr.training.progress import TerminalProgress
from vhcr.training.run import RUN_FORMAT, RunParams, code_digest, curves_csv, identity
from vhcr.training.state import Row, TrainState

log = logging.getLogger(__name__)

PROGRESS = "@progress "  # lines of output that begin so are for a flow, where VHCR_PROGRESS is set
VALIDATION = "@validation "
PROGRESS_SECONDS = 2.0
# Where and when a run was made. It has a file of its own, so that run.json comes out the same each time.
PROVENANCE = (
    "mlflow_run_id",
    "code_version",
    "dirty",
    "device",
    "machine",
    "torch_version",
    "versions",
    "seconds",
)
READ = ("train", "validation")  # the splits that a training sees
STOPPED = 3  # exit status after SIGTERM or SIGINT: a checkpoint was left, run again to resume


def run(params: Params, corpus: str, system: str, seed: int) -> None:
    """Train one system on one corpus from one seed; resumes by itself where an earlier attempt stopped."""
    merged = params.corpus(corpus)
    clear_finished()
    require_valid(corpus)
    run_params = RunParams(model=merged.model, system=params.system(system, corpus), training=merged.training)
    observers = [ProgressLines()] if os.environ.get("VHCR_PROGRESS") else []
    folder = layout.trained(corpus, system, seed)
    try:
        train_into(folder, corpus, system, seed, run_params, observers=observers)
    except Interrupted as interrupted:
        log.warning("%s", interrupted)
        raise SystemExit(STOPPED) from None


def train_into(
    folder: Path,
    corpus: str,
    system: str,
    seed: int,
    params: RunParams,
    *,
    observers: Sequence[Observer] = (),
    tags: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Train and write the run to ``folder``; returns what its run.json and provenance.json say.

    Work in progress lies under ``.work/train/<identity>``, so an attempt that was cut short, however, is
    taken up again by the next one with the same parameters, data and code.
    """
    source = layout.tokenised(corpus)
    manifest, vocabulary, train, validation = read_tokenised(corpus)
    set_up_cpu(params.training.num_threads)
    device = choose_device(params.training.device)
    who = identity(params, seed, manifest.data_hash)
    work = layout.WORK / "train" / who
    with stop_on_signal() as stop, join(device) as workers, ExitStack() as held:
        if workers.records:
            held.enter_context(hold(work))
        counts = params.system.architecture == "kneser-ney"  # no steps to time
        if workers.size == 1 and not counts and not (work / "state.safetensors").exists():
            with suppress(Interrupted):  # fit asks, too, and leaves a checkpoint
                expected = estimate(params, len(vocabulary), train, validation, seed, stop)
                log.info("%s %s seed %d: %s", corpus, system, seed, expected)
        model = build(params.model, params.system, len(vocabulary), seed).to(device)
        if isinstance(model, KneserNey):
            model.count(train.batches(params.training.batch_conversations))
        state = TrainState(model, adam(model, params.training), who)
        if (work / "state.safetensors").exists():
            state.load(work / "state.safetensors")
            log.info("resuming at step %d (epoch %d)", state.position.step, state.position.epoch)
        workers.wait()  # nobody reads the file any more
        if workers.records and (remark := unfinished_annealing(params, len(train))) is not None:
            log.warning("%s %s: %s", corpus, system, remark)
        if not workers.records:
            fit(
                state,
                train,
                validation,
                params.training,
                seed=seed,
                work=work,
                should_stop=stop,
                workers=workers,
            )
            return {}
        version = code_version()
        info: dict[str, Any] = {
            "format": RUN_FORMAT,
            "corpus": corpus,
            "system": system,
            "seed": seed,
            "identity": who,
            "data_hash": manifest.data_hash,
            "inputs": {str(path): dvc_hash(path) for path in inputs(corpus)},
            "vocabulary_hash": vocabulary.hash,
            "rules": manifest.rules.as_dict(),
            "code": code_digest(),
            "mlflow_run_id": None,
            "code_version": version.commit,
            "dirty": version.dirty,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "machine": machine(),
            "torch_version": torch.__version__,
            "versions": versions(),
            "num_parameters": sum(p.numel() for p in model.parameters()),
            "params": params.model_dump(mode="json"),
        }
        with ExitStack() as open_run:
            tracked = None
            if recording.available():
                with or_later("it is sent by itself when it ends, or by vhcr import-run"):
                    tracked = open_run.enter_context(track(work, info, params, tags or {}))
                    tracked.log_dataset(
                        corpus, manifest.data_hash, str(source), manifest.splits["train"].model_dump()
                    )
                    tracked.log_rows(state.position.rows)  # what an earlier attempt could not send
                    info["mlflow_run_id"] = tracked.run_id
                    log.info("MLflow run %s", tracked.run_id)
            bar = open_run.enter_context(TerminalProgress(f"{corpus} {system} seed {seed}"))
            unlearnt = Unlearnt(f"{corpus} {system}", train, validation, params.training)
            watching: list[Observer] = [bar, unlearnt, *observers]
            if tracked is not None:
                watching.append(tracked)
            fit(
                state,
                train,
                validation,
                params.training,
                seed=seed,
                work=work,
                observers=watching,
                should_stop=stop,
                workers=workers,
            )
            info["best_step"] = state.position.best_step
            info["precision"] = state.position.precision
            info["seconds"] = round(state.seconds, 3)
            publish(folder, work, state, vocabulary, info)
            if tracked is not None:
                with or_later(f"vhcr import-run {folder}"):
                    send_trained(tracked, folder, info)
        if tracked is None and recording.available():
            with or_later(f"vhcr import-run {folder}"):
                import_run(folder)
        if tracked is not None:
            with or_later(f"vhcr import-run {folder}"):
                settle(recording.client(), tracked.experiment_id, group_of(info))
    if "DVC_STAGE" in os.environ:
        # Until DVC has noted what this stage made it may delete that: a rerun finds its finished work here.
        write_text(work / FINISHED, f"{folder.absolute()}\n")
    else:
        shutil.rmtree(work)
    return info


def read_tokenised(corpus: str) -> tuple[Manifest, Vocabulary, Conversations, Conversations]:
    """What stage tokenise left: manifest, vocabulary, training and validation conversations.

    Raises:
        DataError: it left nothing yet, or the files do not belong together.
    """
    source = layout.tokenised(corpus)
    if not (source / "manifest.json").exists():
        raise DataError(
            f"{source / 'manifest.json'} is missing: {corpus!r} is not tokenised yet; "
            f"`dvc repro tokenise@{corpus}` does that"
        )
    # The test split, too: run.json names the folder as it is, so a damaged one would be recorded as the data.
    tables = (f"token_ids/{name}.parquet" for name in SPLITS)
    manifest = Manifest.of(source, "vocabulary.parquet", *tables)
    vocabulary = Vocabulary.load(source / "vocabulary.parquet")
    if vocabulary.hash != manifest.vocabulary_hash:
        raise DataError(
            f"{source / 'vocabulary.parquet'}: is not the vocabulary that {source}/manifest.json names"
        )
    train, validation = (
        Conversations.load(
            source / "token_ids" / f"{name}.parquet",
            len(vocabulary),
            max_words=manifest.tokenisation.max_words,
        )
        for name in READ
    )
    return manifest, vocabulary, train, validation


def foresee(params: Params, corpus: str, system: str, seed: int) -> Estimate:
    """What this training will take here, from a few timed batches; nothing is written.

    Raises:
        DataError: as ``read_tokenised``.
    """
    merged = params.corpus(corpus)
    run_params = RunParams(model=merged.model, system=params.system(system, corpus), training=merged.training)
    _, vocabulary, train, validation = read_tokenised(corpus)
    set_up_cpu(merged.training.num_threads)
    return estimate(run_params, len(vocabulary), train, validation, seed)


def unfinished_annealing(params: RunParams, num_conversations: int) -> str | None:
    """What to say of a KL weight that the training ends before; None where it reaches its end."""
    training, system = params.training, params.system
    if system.architecture == "hred":
        return None
    steps_per_epoch = math.ceil(num_conversations / training.batch_conversations)
    steps = int(min(training.num_epochs * steps_per_epoch, training.max_steps or math.inf))
    end = kl_weight(steps, training.kl_annealing_steps, system.kl_cycles, system.final_kl_weight)
    if steps >= training.kl_annealing_steps:
        return None
    return (
        f"the KL weight ends at {end:.2f} of {system.final_kl_weight:g}: training has {steps:,} steps, "
        f"training.kl_annealing_steps is {training.kl_annealing_steps:,}; more epochs, smaller batches or a "
        "shorter annealing fit"
    )


def inputs(corpus: str) -> list[Path]:
    """The files that a training reads, as dvc.yaml lists them."""
    source = layout.tokenised(corpus)
    return [
        source / "token_ids",
        source / "vocabulary.parquet",
        source / "manifest.json",
        layout.validated(corpus) / "validation.json",
    ]


class Unlearnt:
    """An observer that says once, after an epoch or more, that a unigram model would do better."""

    def __init__(
        self, name: str, train: Conversations, validation: Conversations, params: TrainingParams
    ) -> None:
        self._name, self._params = name, params
        self._splits = (train, validation)
        self._after = math.ceil(len(train) / params.batch_conversations)
        self._said = False

    def recorded(self, rows: Sequence[Row], words_per_second: float) -> None:  # noqa: ARG002
        """A validation after the first epoch is held against the unigram model."""
        for row in rows:
            if self._said or row["split"] != "validation" or int(row["step"]) < self._after:
                continue
            bound, unigram = float(row["nll_per_word"]), unigram_nll(*self._splits)
            self._said = bound > unigram
            if self._said:
                log.warning(
                    "%s: after %d steps the validation bound is %.4g nats per word, above the %.2f of a "
                    "unigram model: nothing is learnt yet. Where this stays so, training.learning_rate = %g "
                    "is too large or too small",
                    self._name, row["step"], bound, unigram, self._params.learning_rate,
                )  # fmt: skip

    def progress(self, progress: Progress) -> None:
        """Nothing: only validations are looked at."""


def unigram_nll(train: Conversations, validation: Conversations) -> float:
    """Nats per word of the validation split under the words' frequencies in training, each counted once more.

    EOS counts as a word, as in the bound.
    """
    counted, asked = (split.word_counts() for split in (train, validation))
    size = max(len(counted), len(asked))
    counted, asked = (np.pad(counts, (0, size - len(counts))) for counts in (counted, asked))
    log_p = np.log(counted + 1.0) - np.log(counted.sum() + size)
    return float(-(asked * log_p).sum() / asked.sum())


class ProgressLines:
    """An observer that prints how far a run is and each validation, as JSON, for whoever reads the output."""

    def __init__(self) -> None:
        self._printed = -PROGRESS_SECONDS

    def recorded(self, rows: Sequence[Row], words_per_second: float) -> None:  # noqa: ARG002
        """A line for each validation; the curves have their own place."""
        for row in rows:
            if row["split"] == "validation":
                said = {"step": row["step"], "nll_per_word": row["nll_per_word"]}
                print(VALIDATION + json.dumps(said), flush=True)

    def progress(self, progress: Progress) -> None:
        """A line every few seconds, and one for the last step."""
        now = time.monotonic()
        if now - self._printed >= PROGRESS_SECONDS or progress.step == progress.total_steps:
            self._printed = now
            print(PROGRESS + json.dumps(asdict(progress)), flush=True)


def track(work: Path, info: dict[str, Any], params: RunParams, tags: dict[str, str]) -> MlflowRun:
    """The MLflow run of this training: a new one, or the one an earlier attempt began."""
    note, attempt = work / "mlflow_run_id", work / "attempt"
    if not attempt.exists():
        write_text(attempt, uuid.uuid4().hex)
    token = read_text(attempt)  # by it the run is known, should we be killed before its id is noted
    values = {**flatten(params), "seed": info["seed"], "num_parameters": info["num_parameters"]}
    known = {name: info[name] for name in ("corpus", "system", "seed", "data_hash", "device", "inputs")}
    own = {
        **run_tags(**known),
        "identity": info["identity"],
        "reading": params.system.reading,
        "group": group_of(info),
    }
    tracked = MlflowRun.start(
        experiment_name(info["corpus"]),
        f"{info['system']}-{info['seed']}",
        values,
        {**own, **tags},
        run_id=read_text(note) if note.exists() else None,
        attempt=token,
        system_metrics=True,
    )
    write_text(note, tracked.run_id)
    with or_later("vhcr import-run, when the training has ended"):
        settle(recording.client(), tracked.experiment_id, own["group"])
        recording.save_views(recording.client(), tracked.experiment_id)
    return tracked


def publish(
    folder: Path, work: Path, state: TrainState, vocabulary: Vocabulary, info: dict[str, Any]
) -> None:
    """Put a finished run into ``folder``, file by file, run.json last: a folder with it is complete.

    ``work`` stays whole until MLflow has all, too: whoever is killed before that publishes again, and trains
    nothing again (DVC deletes what a stage that did not end has left).
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").unlink(missing_ok=True)
    place(work / "best.safetensors", folder / "best.safetensors")
    place(work / "state.safetensors", folder / "last.safetensors")
    vocabulary.save(folder / "vocabulary.txt")
    write_text(folder / "curves.csv", curves_csv(state.position.rows))
    validations = [row for row in state.position.rows if row["split"] == "validation"]
    best = next(row for row in validations if row["step"] == state.position.best_step)
    write_json(
        folder / "metrics.json",
        {
            "num_steps": state.position.step,
            "num_epochs": state.position.epoch,
            "num_parameters": info["num_parameters"],
            "best_validation": {k: v for k, v in best.items() if k != "split"},
            "last_validation": {k: v for k, v in validations[-1].items() if k != "split"},
        },
    )
    write_json(
        folder / "summary.json",
        {f"{info['system']}-{info['seed']}": {"validation_nll_per_word": best["nll_per_word"]}},
    )
    write_json(folder / "provenance.json", {key: info[key] for key in PROVENANCE})
    write_json(folder / "run.json", {k: v for k, v in info.items() if k not in PROVENANCE})


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Hold the folder of a run in progress: one process per run.

    Raises:
        TrainingError: another process holds it; the message says which.
    """
    with ExitStack() as held:
        try:
            held.enter_context(locked(folder / "lock", "a training", wait_seconds=0))
        except HeldError as error:
            raise TrainingError(
                f"{folder}: process {error.pid or 'unknown'} is training this very run; "
                f"wait for it, or stop it with: kill {error.pid or 'its process'}"
            ) from None
        yield


@contextmanager
def stop_on_signal() -> Iterator[Any]:
    """A function that says whether SIGTERM or SIGINT has come; the handlers before are put back."""
    asked = False

    def ask(number: int, frame: Any) -> None:  # noqa: ARG001
        nonlocal asked
        asked = True
        log.warning("%s: leaving a checkpoint", signal.Signals(number).name)

    numbers = (signal.SIGTERM, signal.SIGINT) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, ask) for number in numbers}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main() -> None:
    """``python -m vhcr.stages.train --corpus C --system S --seed N``."""
    stage_main(run)


if __name__ == "__main__":
    main()
