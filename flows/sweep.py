"""A sweep: ranges in, trials out. Optuna chooses the dials of each trial and says which to stop early.

All that is known of a sweep lies in its journal, beside the report. A trial is open from the moment its dials
are chosen until it is told how it came out. So whatever ends a flow before that, the next attempt takes up
the open trials with the same dials (their trainings go on from their checkpoints) and asks for the rest.
"""

import csv
import io
import json
import os
import threading
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flows.rooms import Room
from flows.settings import CompareSettings, Range
from vhcr import recording
from vhcr.errors import ParameterError, VhcrError
from vhcr.files import read_object, read_text, values_digest, write_text

JOURNAL = "trials.journal"
BOUND = "best_validation/nll_per_word"  # nats; what a sweep makes small
PARENT = "mlflow.parentRunId"  # by this tag MLflow's pages show a run below another


class Pruned(VhcrError):  # noqa: N818
    """A trial is stopped: at this step it is worse than the median of those before it."""


def optuna() -> Any:
    """The library, which only sweeps need.

    Raises:
        ParameterError: it is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise ParameterError("ranges need Optuna: pip install 'vhcr[scale]'; or give variants") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


class Sweep:
    """The trials of one system. The flow that holds the sweep's room has it alone, in several threads."""

    def __init__(self, folder: Path, settings: CompareSettings, system: str) -> None:
        """Go on with the journal in ``folder``, or begin it.

        Raises:
            ParameterError: Optuna is not installed.
        """
        self._optuna = optuna()
        self._folder, self._settings, self.system = folder, settings, system
        journal = folder / JOURNAL
        folder.mkdir(parents=True, exist_ok=True)
        _end_of_whole_lines(journal)
        backend = self._optuna.storages.journal.JournalFileBackend(str(journal), lock_obj=_Alone())
        after = settings.prune_after
        pruners = self._optuna.pruners
        self._study = self._optuna.create_study(
            storage=self._optuna.storages.JournalStorage(backend),
            study_name=system,
            direction="minimize",
            pruner=pruners.MedianPruner(n_startup_trials=after) if after else pruners.NopPruner(),
            load_if_exists=True,
        )
        if "attempt" not in self._study.user_attrs:
            self._study.set_user_attr("attempt", uuid.uuid4().hex)
        self._open: dict[int, Any] = {}
        self._linked: dict[str, str] = {}  # MLflow run -> the state it is shown with
        self._showing = threading.Lock()

    # Trials

    def name(self, number: int) -> str:
        """How the report and MLflow call a trial."""
        return f"{self.system}.trial-{number:03}"

    def numbers(self) -> list[int]:
        """The trials that have not ended: those left open first, then those not asked for yet."""
        known = self._trials()
        wanted = range(max(self._settings.trials, len(known)))
        return [n for n in wanted if n >= len(known) or not known[n].state.is_finished()]

    def values(self, number: int) -> dict[str, Any]:
        """The dials of a trial: as it was begun, else asked for now; trials begin in the order of numbers.

        The sampler is seeded anew for each trial. So a flow that goes on does not choose once more what its
        first trials had, and trials one after the other come out as if nothing had happened.
        """
        seed = int(values_digest(self._settings.sweep_seed, self.system, number)[:8], 16)
        self._study.sampler = self._optuna.samplers.TPESampler(seed=seed)
        known = self._trials()
        if number < len(known):
            trial = self._optuna.trial.Trial(self._study, known[number]._trial_id)
        else:
            trial = self._study.ask()
        assert trial.number == number
        self._open[number] = trial
        return {one.dial: _suggested(trial, one) for one in self._settings.ranges}

    def hear(self, number: int, room: Room) -> None:
        """What the training of a trial has said since.

        Raises:
            Pruned: it is not worth its end.
        """
        for said in _heard(room):
            if "mlflow_run_id" in said:
                self._note_run(number, said["mlflow_run_id"])
            else:
                self._report(number, said["step"], said["nll_per_word"])
        trial = self._open[number]
        reported = self._trials()[number].intermediate_values
        if reported and trial.should_prune():
            step = max(reported)
            raise Pruned(
                f"stopped at step {step}: a bound of {min(reported.values()):.4f} nats per word is above the "
                "median of the trials before"
            )

    def tell(self, number: int, room: Room, *, pruned: bool) -> None:
        """A trial has ended: pruned, or trained to its end, with the lowest validation bound as its value."""
        trial = self._open[number]
        if pruned:
            self._study.tell(trial, state=self._optuna.trial.TrialState.PRUNED)
            return
        for row in csv.DictReader(io.StringIO(read_text(room.trained / "curves.csv"))):
            if row["split"] == "validation":  # all of them, also of a run that another flow has trained
                self._report(number, int(row["step"]), float(row["nll_per_word"]))
        self._note_run(number, read_object(room.trained / "provenance.json").get("mlflow_run_id"))
        metrics = read_object(room.trained / "metrics.json", "best_validation")
        self._study.tell(trial, metrics["best_validation"]["nll_per_word"])

    def complete(self) -> dict[int, dict[str, Any]]:
        """The dials of the trials that were trained to their end."""
        return {trial.number: trial.params for trial in self._trials() if trial.state.name == "COMPLETE"}

    def best(self) -> dict[str, Any] | None:
        """The row of the trial with the lowest bound; None while none is complete."""
        rows = [row for row in self.table() if row["state"] == "complete"]
        return min(rows, key=lambda row: row["nll_per_word"], default=None)

    def table(self) -> list[dict[str, Any]]:
        """A row for each trial: state (running: open), dials, lowest validation bound so far."""
        return [
            {
                "trial": trial.number,
                "state": trial.state.name.lower(),
                **{one.dial: trial.params.get(one.dial) for one in self._settings.ranges},
                "nll_per_word": min(trial.intermediate_values.values(), default=None)
                if trial.state.name != "COMPLETE"
                else trial.value,
                "last_step": trial.last_step,
                "mlflow_run_id": trial.user_attrs.get("mlflow_run_id"),
            }
            for trial in self._trials()
        ]

    def importance(self) -> dict[str, float]:
        """The share of each dial in what the bounds of complete trials differ by (functional ANOVA).

        Hutter et al., 2014: of a forest fitted to the trials. Sums to 1. Empty while fewer than two trials
        are complete, or while all bounds are alike.
        """
        complete = [trial for trial in self._trials() if trial.state.name == "COMPLETE"]
        if len({trial.value for trial in complete}) < 2:
            return {}
        importance = self._optuna.importance
        evaluator = importance.FanovaImportanceEvaluator(seed=self._settings.sweep_seed)
        return dict(importance.get_param_importances(self._study, evaluator=evaluator))

    def _trials(self) -> list[Any]:
        return list(self._study.get_trials(deepcopy=False))

    def _report(self, number: int, step: int, bound: float) -> None:
        if step not in self._trials()[number].intermediate_values:  # a resumed training says some again
            self._open[number].report(bound, step)

    def _note_run(self, number: int, run_id: str | None) -> None:
        if run_id and self._trials()[number].user_attrs.get("mlflow_run_id") != run_id:
            self._open[number].set_user_attr("mlflow_run_id", run_id)

    # What is shown

    def show(self, *, ended: bool = False) -> None:
        """Tables in the sweep's folder; in MLflow one run for the sweep, with its trials below it.

        Raises:
            RecordingError: MLflow does not answer.
        """
        with self._showing:
            rows, importance = self.table(), self.importance()
            trials = self._folder / f"{self.system}-trials.csv"
            dials = self._folder / f"{self.system}-importance.csv"
            write_text(trials, _csv(rows))
            write_text(
                dials, _csv([{"dial": dial, "importance": share} for dial, share in importance.items()])
            )
            if not recording.available():
                return
            parent = self._parent()
            parent.log_artifacts([trials, dials])
            counts = {state: sum(row["state"] == state for row in rows) for state in ("complete", "pruned")}
            metrics = {f"trials/{state}": count for state, count in counts.items()}
            metrics |= {f"importance/{dial}": share for dial, share in importance.items()}
            tags = {"trials": str(self._settings.trials)}
            if best := self.best():
                metrics[BOUND] = best["nll_per_word"]
                tags |= {
                    "best_trial": str(best["trial"]),
                    "mlflow.note.content": self._note(best, importance),
                }
            parent.log_metrics(metrics, step=sum(counts.values()))
            parent.set_tags(tags)
            self._put_below(parent.run_id, rows)
            if ended:
                parent.finish()

    def _parent(self) -> recording.MlflowRun:
        settings = self._settings
        params: dict[str, Any] = {f"range/{one.dial}": describe(one) for one in settings.ranges}
        params |= {"sweep_seed": settings.sweep_seed, "prune_after": settings.prune_after}
        tags = {"kind": "sweep", "corpus": settings.corpus, "system": self.system}
        return recording.MlflowRun.start(
            recording.experiment_name(settings.corpus),
            f"sweep {self.system}",
            {**params, "seed": settings.seeds[0]},
            tags,
            attempt=self._study.user_attrs["attempt"],
        )

    def _put_below(self, parent_id: str, rows: list[dict[str, Any]]) -> None:
        client = recording.client()
        for row in rows:
            run_id, state = row["mlflow_run_id"], row["state"]
            if not run_id or self._linked.get(run_id) == state:
                continue
            tags = {PARENT: parent_id, "trial": str(row["trial"]), "trial_state": state}
            tags["mlflow.runName"] = self.name(row["trial"])
            with recording.plainly():
                for name, value in tags.items():
                    client.set_tag(run_id, name, value)
            self._linked[run_id] = state

    def _note(self, best: Mapping[str, Any], importance: Mapping[str, float]) -> str:
        lines = [
            f"Trial {best['trial']} has the lowest bound: {best['nll_per_word']:.4f} nats per word.",
            "",
            "| dial | range | best | importance |",
            "| --- | --- | --- | --- |",
        ]
        for one in self._settings.ranges:
            share = f"{importance[one.dial]:.2f}" if one.dial in importance else ""
            value = best[one.dial]
            shown = f"{value:.4g}" if isinstance(value, float) else value
            lines.append(f"| {one.dial} | {describe(one)} | {shown} | {share} |")
        return "\n".join(lines)


def describe(one: Range) -> str:
    """A range as one reads it: ``0.0001 to 0.01 (log)``."""
    if one.choices:
        return ", ".join(map(str, one.choices))
    return f"{one.low:g} to {one.high:g}{' (log)' if one.log else ''}"


def _suggested(trial: Any, one: Range) -> Any:
    if one.choices:
        return trial.suggest_categorical(one.dial, list(one.choices))
    assert one.low is not None
    assert one.high is not None
    if one.whole:
        return trial.suggest_int(one.dial, int(one.low), int(one.high), log=one.log)
    return trial.suggest_float(one.dial, one.low, one.high, log=one.log)


def _heard(room: Room) -> Iterator[dict[str, Any]]:
    """Whole lines: another machine may be writing the last one."""
    if room.heard.exists():
        *whole, _ = read_text(room.heard).split("\n")
        yield from map(json.loads, whole)


def _csv(rows: list[dict[str, Any]]) -> str:
    file = io.StringIO()
    if rows:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return file.getvalue()


class _Alone:
    """The journal's lock among threads. Its own is a file, which a killed flow leaves: the next one waits."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def acquire(self) -> bool:
        return self._lock.acquire()

    def release(self) -> None:
        self._lock.release()


def _end_of_whole_lines(journal: Path) -> None:
    """Cut off the line that a killed flow was writing: Optuna would write on in it and not read it."""
    if journal.exists() and (text := journal.read_bytes()) and not text.endswith(b"\n"):
        os.truncate(journal, text.rfind(b"\n") + 1)
