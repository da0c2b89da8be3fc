"""An evaluated run becomes a version of ``vhcr-<corpus>``, once; the champion moves by a rule."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from vhcr.errors import DataError
from vhcr.evaluation.records import Evaluation
from vhcr.files import digest, file_digest, read_record
from vhcr.params import AT_REST, GenerationParams, parse
from vhcr.recording import client, experiment_name, import_run, one_at_a_time, plainly, run_url
from vhcr.recording.files import EVALUATION
from vhcr.recording.store import as_default, told
from vhcr.registry.card import intervals, model_card
from vhcr.registry.champion import RULE, Verdict, judge
from vhcr.results.records import EvaluationRecord, TrainingRecord, read_training
from vhcr.results.statistics import Interval

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

log = logging.getLogger(__name__)

CHAMPION = "champion"
COMPARED = ("metrics.json", "conversations.parquet")  # of an evaluation: what card and champion rest on


class Registered(NamedTuple):
    """A version of a registered model, and whether it is the champion."""

    name: str
    version: str
    run_id: str  # the MLflow run whose numbers these are
    is_new: bool
    is_champion: bool
    reason: str  # why it is the champion, or is not

    def __str__(self) -> str:
        new = "" if self.is_new else " (registered before)"
        place = "champion" if self.is_champion else "not champion"
        return f"{self.name} version {self.version}{new}: {place}: {self.reason}"


def register(
    folder: Path, evaluated: Path, *, run_id: str | None = None, make_champion: bool = False
) -> Registered:
    """Register the run in ``folder``, evaluated in ``evaluated``, and see whether it is the new champion.

    The same parameters are one version, however often they are trained, evaluated or registered; its card
    follows the latest evaluation. A run that MLflow has complete is named by ``run_id``; any other is
    imported first, which is recognised as well. ``make_champion`` moves the alias whatever the comparison
    says.

    Raises:
        DataError: a file of the run or its evaluation is missing or damaged.
        RecordingError: MLflow cannot be reached, or refused.
    """
    training = read_training(folder)
    evaluation = read_record(Evaluation, evaluated / "metrics.json")
    made = read_record(EvaluationRecord, evaluated / "provenance.json")
    origin = str(evaluated / "provenance.json")
    values = {**AT_REST["generation"], **made.protocol.generation}
    generation = parse(GenerationParams, values, where="protocol.generation", origin=origin)
    bootstrap = {}
    for name, key in (("num_samples", "bootstrap_samples"), ("seed", "seed")):
        value = made.protocol.evaluation.get(key)
        if not isinstance(value, int):
            raise DataError(f"{origin}: protocol.evaluation.{key} is missing")
        bootstrap[name] = value
    run_id = run_id or import_run(folder, evaluated)
    name = experiment_name(training.corpus)
    with one_at_a_time("registry"), as_default(), plainly():
        connected = client()
        run = connected.get_run(run_id).info
        found = intervals(evaluated, **bootstrap)
        url = run_url(run.experiment_id, run_id)
        card = model_card(training, evaluation, made, found, run_url=url)
        _ensure_model(connected, name, training.corpus)
        identity = model_digest(folder)
        version = _version_of(connected, name, identity)
        is_new = version is None
        if version is None:
            version = _new_version(
                connected, name, folder, run.experiment_id, run_id, generation, card, identity
            )
        _describe(connected, version, card, _tags(training, evaluation, found, identity, evaluated))
        verdict = _promote(connected, version, evaluated, bootstrap, make_champion)
        _show_champion(connected, name, training.corpus)
    registered = Registered(name, str(version.version), run_id, is_new, verdict.moves, verdict.reason)
    log.info("%s", registered)
    return registered


def model_digest(folder: Path) -> str:
    """What two runs share exactly when they are the same model: parameters, vocabulary, sizes, system."""
    parts = []
    params = read_training(folder).params
    for name in ("best.safetensors", "vocabulary.txt"):
        try:
            parts.append(file_digest(folder / name))
        except OSError as error:
            raise DataError(f"{folder / name}: cannot be read: {error.strerror}") from None
    shape = [(part, sorted(params[part].items())) for part in ("model", "system")]
    return digest(*parts, repr(shape))


def _ensure_model(connected: MlflowClient, name: str, corpus: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        connected.create_registered_model(name, tags={"corpus": corpus})
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _show_champion(connected: MlflowClient, name: str, corpus: str) -> None:
    """Say first which version is champion: MLflow lists versions by number, the newest on top."""
    model = connected.get_registered_model(name)
    held = connected.get_model_version(name, model.aliases[CHAMPION])
    known = held.tags
    bound = known.get("nll_per_word_interval")
    about = (
        f"**Champion: [version {held.version}](#/models/{name}/versions/{held.version})**, "
        f"{known['system']}, seed {known['seed']}: {known['nll_per_word']} nats a test word"
        f"{f' (95 % interval {bound})' if bound else ''}.\n\n"
        f"Conversation models trained on **{corpus}**, one version per evaluated run. {RULE}\n\n"
        f'`mlflow.pyfunc.load_model("models:/{name}@{CHAMPION}")`, or `mlflow models serve`: docs/mlflow.md.'
    )
    if model.description != about:
        connected.update_registered_model(name, about)


def _version_of(connected: MlflowClient, name: str, identity: str) -> ModelVersion | None:
    """The version that holds these very parameters."""
    found = connected.search_model_versions(f"name = '{name}' and tags.model_digest = '{identity}'")
    return min(found, key=lambda version: int(version.version)) if found else None


def _new_version(
    connected: MlflowClient,
    name: str,
    folder: Path,
    experiment_id: str,
    run_id: str,
    generation: GenerationParams,
    card: str,
    identity: str,
) -> ModelVersion:
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model

    from vhcr.serving.package import package

    model = connected.create_logged_model(experiment_id, name=folder.parent.name, source_run_id=run_id)
    with tempfile.TemporaryDirectory() as temporary:
        target = Path(temporary) / "model"
        about = Model(run_id=run_id, model_id=model.model_id)
        package(folder, target, generation=generation, card=card, about=about)
        connected.log_model_artifacts(model.model_id, str(target))
    connected.finalize_logged_model(model.model_id, "READY")
    connected.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    return connected.create_model_version(
        name,
        f"models:/{model.model_id}",
        run_id=run_id,
        tags={"model_digest": identity},  # at once: by it a version is known, whatever comes between
        model_id=model.model_id,
        await_creation_for=0,
    )


def _tags(
    training: TrainingRecord,
    evaluation: Evaluation,
    found: Mapping[str, Interval],
    identity: str,
    evaluated: Path,
) -> dict[str, str]:
    tags = {
        "corpus": training.corpus,
        "system": training.system,
        "seed": str(training.seed),
        "data_hash": training.data_hash,
        "model_digest": identity,
        "evaluation_digest": digest(*(file_digest(evaluated / name) for name in COMPARED)),
        "git_commit": str(training.code_version),
        "dirty": str(training.dirty).lower(),
        "reading": str(training.params["system"]["reading"]),
        "nll_per_word": f"{evaluation.nll_per_word:.4f}",
    }
    if "nll_per_word" in found:
        tags["nll_per_word_interval"] = f"{found['nll_per_word'].low:.4f} to {found['nll_per_word'].high:.4f}"
    return tags


def _describe(connected: MlflowClient, version: ModelVersion, card: str, tags: Mapping[str, str]) -> None:
    own = card.replace(f"models:/{version.name}@{CHAMPION}", f"models:/{version.name}/{version.version}")
    connected.update_model_version(version.name, version.version, description=own)
    for key, value in tags.items():
        if version.tags.get(key) != value:
            connected.set_model_version_tag(version.name, version.version, key, value)


def _promote(
    connected: MlflowClient,
    version: ModelVersion,
    evaluated: Path,
    bootstrap: Mapping[str, int],
    make_champion: bool,
) -> Verdict:
    """Whether this version is champion now, and why (not)."""
    champion = connected.get_registered_model(version.name).aliases.get(CHAMPION)
    if champion == version.version:
        held = connected.get_model_version(version.name, champion)
        return Verdict(True, held.tags.get("champion_because", "it holds the alias"))
    if make_champion:
        verdict = Verdict(True, "made champion by hand")
    elif champion is None:
        verdict = Verdict(True, "the first")
    else:
        verdict = _compared(
            connected, connected.get_model_version(version.name, champion), evaluated, bootstrap
        )
    if verdict.moves:
        connected.set_model_version_tag(version.name, version.version, "champion_because", verdict.reason)
        connected.set_registered_model_alias(version.name, CHAMPION, version.version)
    return verdict


def _compared(
    connected: MlflowClient, champion: ModelVersion, evaluated: Path, bootstrap: Mapping[str, int]
) -> Verdict:
    """The verdict on an evaluation against that of the champion, which MLflow keeps."""
    from mlflow.exceptions import MlflowException

    with tempfile.TemporaryDirectory() as temporary:
        rows = f"{EVALUATION}/conversations.parquet"
        try:
            path = connected.download_artifacts(champion.run_id, rows, temporary)
        except (MlflowException, OSError) as error:
            return Verdict(
                False,
                f"the evaluation of version {champion.version} cannot be read ({told(error)}); "
                "--champion moves the alias by hand",
            )
        verdict = judge(evaluated, Path(path).parent, **bootstrap)
    return Verdict(verdict.moves, f"against version {champion.version}, {verdict.reason}")
