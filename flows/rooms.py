"""A room: a small DVC project of its own, where one run with settings of one's own is made.

    runs/<corpus>/<system>-<seed>-<digest of its settings>/
        params.yaml dvc.yaml     the project's, with the settings laid over them
        vhcr -> ../../../vhcr    the project's code
        .work -> ../../../.work  the project's checkpoints in progress, so that one run resumes another's
        data/ reports/           as in the project

DVC keeps one cache for both: what the project has made already, prepared data above all, is taken from there.
Nothing of the project (params.yaml, dvc.lock, outputs) is ever touched.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows import running
from flows.graph import dvc
from flows.settings import CompareSettings, TrainSettings, chosen
from vhcr import layout, recording
from vhcr.files import write_text
from vhcr.params import Params, fingerprint

RUNS = Path("runs")
CONFIG = """# Made by a flow; `dvc` works here as in the project.
[core]
    no_scm = true
    analytics = false
    check_update = false
[cache]
    dir = {cache}
    type = reflink,hardlink,copy
"""


@dataclass(frozen=True)
class Room:
    """Where it lies, what it is about, and its parameters; ``root`` is the project."""

    root: Path
    folder: Path
    corpus: str
    system: str
    seed: int
    params: Params

    @property
    def run(self) -> str:
        """The run as DVC names it: ``train@`` or ``evaluate@`` goes before."""
        return f"{self.corpus}-{self.system}-{self.seed}"

    @property
    def trained(self) -> Path:
        """The folder of the trained run."""
        return self.folder / layout.trained(self.corpus, self.system, self.seed)

    @property
    def report(self) -> Path:
        """The page."""
        return self.folder / layout.report(self.corpus) / "index.html"

    @property
    def heard(self) -> Path:
        """What its training says: a JSON object a line, with an MLflow run or a validation."""
        return self.folder / "heard.jsonl"

    @contextlib.contextmanager
    def held(self, who: str, on_wait: Callable[[str], None], wait_seconds: float) -> Iterator[None]:
        """One flow at a time works in a room; the next one waits, and is told for whom.

        Raises:
            ProjectHeldError: it was held for longer than ``wait_seconds``.
        """
        shown = str(self.folder.relative_to(self.root))
        lock = self.root / ".work" / "rooms" / f"{shown.replace(os.sep, '-')}.lock"
        with running.hold_project(who, on_wait, wait_seconds=wait_seconds, path=lock, what=shown):
            yield

    def furnish(self) -> None:
        """Make the room, or bring its code, graph and parameters up to date."""
        for folder in (self.folder / ".dvc", self.root / ".work"):
            folder.mkdir(parents=True, exist_ok=True)
        cache = os.path.relpath(_cache(self.root), self.folder / ".dvc")
        write_text(self.folder / ".dvc" / "config", CONFIG.format(cache=cache))
        write_text(self.folder / "params.yaml", self.params.text())
        templates = (path.relative_to(self.root) for path in (self.root / ".dvc" / "plots").glob("*.json"))
        for file in (Path("dvc.yaml"), Path(".dvcignore"), *templates):
            write_text(self.folder / file, (self.root / file).read_text(encoding="utf-8"))
        for name in ("vhcr", ".work"):
            link = self.folder / name
            if not link.is_symlink():
                link.symlink_to(os.path.relpath(self.root / name, self.folder), target_is_directory=True)

    def environment(self, flow_run_id: str) -> dict[str, str]:
        """What a stage that runs here has to know."""
        known = {
            "VHCR_FLOW_RUN_ID": flow_run_id,
            "VHCR_PROGRESS": "lines",
            "MLFLOW_TRACKING_URI": os.environ.get("MLFLOW_TRACKING_URI")
            or recording.database_uri(self.folder, self.root),
        }
        if sources := os.environ.get("VHCR_SOURCES"):
            known["VHCR_SOURCES"] = str(_found_from(self.root, sources))
        return known


def of(settings: TrainSettings, root: Path | str = ".") -> Room:
    """The room of a run; the same settings, params.yaml being the same, always lead to the same one.

    Raises:
        ParameterError: the settings do not fit together with params.yaml.
    """
    root = Path(root).resolve()
    project = Params.load(root / "params.yaml")
    for check, name in ((project.corpus, settings.corpus), (project.system, settings.system)):
        check(name)  # the form may be older than the file
    params = project.changed(
        {
            "active": {
                "corpora": [settings.corpus],
                "systems": [settings.system],
                "seeds": [settings.seed],
            },
            "corpora": {settings.corpus: _own(settings)},
            "systems": {settings.system: chosen(settings.system_dials)},
        }
    )
    params = params.changed({"corpora": {settings.corpus: _absolute(params, settings.corpus, root)}})
    corpus, system = params.corpus(settings.corpus), params.system(settings.system, settings.corpus)
    digest = fingerprint(corpus, system, settings.seed)[:8]
    folder = root / RUNS / settings.corpus / f"{settings.system}-{settings.seed}-{digest}"
    return Room(root, folder, settings.corpus, settings.system, settings.seed, params)


def shared(settings: CompareSettings, members: Sequence[Room]) -> Room:
    """The room of a comparison, where the report on its members lies; of a sweep its trials, too.

    More trials of a sweep lie in the same room: it goes on.
    """
    first = members[0]
    names = [f"{name}-{seed}" for name, seed in settings.members()]
    folders = [str(member.folder.name) for member in members]
    if settings.ranges:
        digest = fingerprint(*names, *folders, *settings.ranges, settings.sweep_seed, settings.prune_after)
    else:
        digest = fingerprint(*names, *folders)
    folder = first.folder.with_name(f"{'sweep' if settings.ranges else 'compare'}-{digest[:8]}")
    # The report reads what all members share: where the corpus comes from, and how runs are evaluated.
    return Room(first.root, folder, first.corpus, "compare", 0, first.params)


def _own(settings: TrainSettings) -> Mapping[str, Any]:
    sections = ("training", "model", "evaluation", "generation")
    return {section: chosen(getattr(settings, section)) for section in sections}


def _absolute(params: Params, corpus: str, root: Path) -> Mapping[str, Any]:
    """Local files that a corpus names, found from the room too."""
    merged = params.corpus(corpus)
    sections = {"source": merged.source.path, "embeddings": merged.embeddings.path}
    return {name: {"path": str(_found_from(root, path))} for name, path in sections.items() if path}


def _found_from(root: Path, path: str) -> Path:
    """A path given in the project at ``root``, found from anywhere; ``~`` is a home, as for the download."""
    return (root / Path(path).expanduser()).resolve()


def _cache(root: Path) -> Path:
    """Where the project keeps DVC's cache.

    Raises:
        CommandError: DVC cannot say.
    """
    done = running.run(dvc("cache", "dir"), lambda _: None, timeout_seconds=60, cwd=root)
    if done.status or not done.lines:
        raise running.CommandError("dvc cache dir: " + "\n".join(done.lines))
    return root / done.lines[-1]
