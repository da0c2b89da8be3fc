"""dvc.yaml, the stages, layout and the flow name the same things."""

from __future__ import annotations

import ast
import difflib
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows import graph
from vhcr import layout
from vhcr.params import CORPUS_SECTIONS, Params
from vhcr.training.run import NUMBERS

ROOT = Path(__file__).resolve().parent.parent
GRAPH: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
STAGES: dict[str, dict[str, Any]] = GRAPH["stages"]
OF_A_CORPUS = {"corpus": ("active.corpora", "toy")}
OF_A_RUN = OF_A_CORPUS | {"system": ("active.systems", "vhcr-ud"), "seed": ("active.seeds", 3)}

# Where layout says that each stage writes.
FOLDERS = {
    "download": layout.raw("toy"),
    "tokenise": layout.tokenised("toy"),
    "validate": layout.validated("toy"),
    "embeddings": layout.embeddings("toy"),
    "train": layout.trained("toy", "vhcr-ud", 3),
    "evaluate": layout.evaluated("toy", "vhcr-ud", 3),
    "report": layout.report("toy"),
}


def paths(stage: str, part: str) -> list[str]:
    """The entries of a part (deps, outs, metrics, plots) for corpus toy, system vhcr-ud, seed 3."""
    entries = STAGES[stage].get(part, [])
    names = [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries]
    for key, (_, value) in OF_A_RUN.items():
        names = [name.replace(f"${{item.{key}}}", str(value)) for name in names]
    return names


def written(stage: str) -> list[str]:
    return [path for part in ("outs", "metrics", "plots") for path in paths(stage, part)]


def inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder + "/")


def test_stages_are_the_files_of_vhcr_stages() -> None:
    modules = (ROOT / "vhcr" / "stages").glob("*.py")
    files = {path.stem for path in modules if "stage_main(run)" in path.read_text(encoding="utf-8")}
    assert set(STAGES) == files
    assert set(FOLDERS) == files


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_runs_its_own_module_with_its_own_matrix(stage: str) -> None:
    matrix = STAGES[stage]["matrix"]
    expected = OF_A_RUN if stage in ("train", "evaluate") else OF_A_CORPUS
    assert matrix == {key: f"${{{source}}}" for key, (source, _) in expected.items()}
    arguments = " ".join(f"--{key} ${{item.{key}}}" for key in expected)
    assert STAGES[stage]["cmd"] == f"python -m vhcr.stages.{stage} {arguments}"


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_writes_where_layout_says(stage: str) -> None:
    assert written(stage)
    assert all(inside(path, FOLDERS[stage].as_posix()) for path in written(stage))


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_reads_what_another_writes(stage: str) -> None:
    """A dependency that nobody makes would let a stage run before what it needs."""
    for path in paths(stage, "deps"):
        if path.startswith(("data/", "reports/")):
            makers = [s for s in STAGES for out in written(s) if inside(out, path) or inside(path, out)]
            assert makers, f"{stage} needs {path}, which no stage makes"
            assert stage not in makers


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_its_own_code(stage: str) -> None:
    code = [path for path in paths(stage, "deps") if not path.startswith(("data/", "reports/"))]
    # A training takes hours: it depends on what computes its numbers, which its stage's file does not.
    assert (f"vhcr/stages/{stage}.py" in code) == (stage != "train")
    for path in code:
        assert (ROOT / path).exists(), f"{stage} depends on {path}, which is not there"


# What a stage may import without listing it, because no number of the stage depends on it.
FREE = (
    "vhcr/errors.py",
    "vhcr/files.py",  # how files are written, not what
    "vhcr/engines.py",  # who works on shards, not what comes out
    "vhcr/layout.py",
    "vhcr/conversation.py",
    "vhcr/params.py",  # the parameters themselves are listed
    "vhcr/recording",
    "vhcr/registry",  # where results are sent, like recording
    "vhcr/provenance.py",
    "vhcr/stages/common.py",
    "vhcr/tokenisation/vocabulary.py",  # reads back a table of words; the table is listed
    "vhcr/tokenisation/manifest.py",  # refuses damaged tables; it changes no number
    "vhcr/tokenisation/verdict.py",  # nor does this
)
FREE_FOR = {
    "download": ("vhcr/corpora",),  # how raw files are read; a better reader fetches nothing again
    "validate": ("vhcr/tokenisation",),  # the names of the tables' columns
    # Names, foretells, shows and keeps a run.
    "train": ("vhcr/training/run.py", "vhcr/training/estimate.py", "vhcr/training/progress.py"),
    "evaluate": ("vhcr/training",),  # reads back a run; its files are listed
    "report": ("vhcr/stages/resolve.py",),  # finds runs that a person names; the stage takes all of a corpus
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_every_module_it_uses(stage: str) -> None:
    """Else a change of that module would leave its old results standing. Modules used by modules count."""
    free = FREE + FREE_FOR.get(stage, ())
    code = [path for path in paths(stage, "deps") if path.startswith("vhcr/")]
    own = f"vhcr/stages/{stage}.py"
    seen: set[str] = set()
    waiting = [own]
    while waiting:
        module = waiting.pop()
        seen.add(module)
        used = {m for m in imported(ROOT / module) if not any(inside(m, path) for path in free)}
        for other in used:
            assert any(inside(other, path) for path in code), f"{stage}: {module} uses {other}, not listed"
        waiting.extend(used - seen)


def test_a_training_is_made_again_for_what_its_identity_says() -> None:
    """Were the two lists not the same, DVC would not train anew what is another run, or train for nothing."""
    code = [path.removeprefix("vhcr/") for path in paths("train", "deps") if path.startswith("vhcr/")]
    assert sorted(code) == sorted(NUMBERS)


def imported(path: Path) -> set[str]:
    """The files of vhcr/ that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            while parts[0] == "vhcr" and len(parts) > 1:
                file = Path(*parts).with_suffix(".py")
                package = Path(*parts) / "__init__.py"
                if (ROOT / file).exists() or (ROOT / package).exists():
                    found.add((file if (ROOT / file).exists() else package).as_posix())
                    break
                parts.pop()
    return found


@pytest.mark.parametrize("stage", STAGES)
def test_the_parameters_of_a_stage_exist(stage: str) -> None:
    params = Params.load(ROOT / "params.yaml")
    raw = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    for name in STAGES[stage].get("params", []):
        first, *rest = name.replace("${item.corpus}", "CORPUS").replace("${item.system}", "SYSTEM").split(".")
        if first == "defaults":
            assert rest[0] in raw["defaults"]
        elif first == "corpora":
            assert rest[0] == "CORPUS"
            assert rest[1] in CORPUS_SECTIONS
            for corpus in params.corpora:
                assert rest[1] in raw["corpora"][corpus], f"corpora.{corpus} has no section {rest[1]}"
        else:
            assert (first, rest) == ("systems", ["SYSTEM"])


def test_generation_retrains_nothing() -> None:
    deps = paths("train", "deps")
    assert not any(path.startswith(("vhcr/generation", "vhcr/evaluation", "vhcr/report")) for path in deps)
    assert not any("generation" in name or "evaluation" in name for name in STAGES["train"]["params"])


def test_the_flow_sees_the_stages_of_dvc_yaml() -> None:
    """Through DVC itself, with the real files: every corpus, system and seed that is active."""
    needs = graph.load(ROOT)
    active = Params.load(ROOT / "params.yaml").active
    assert {graph.kind(stage) for stage in needs} == set(STAGES)
    for corpus in active.corpora:
        report = needs[f"report@{corpus}"]
        for system in active.systems:
            for seed in active.seeds:
                run = f"{corpus}-{system}-{seed}"
                assert {f"train@{run}", f"evaluate@{run}"} <= report
                assert f"validate@{corpus}" in needs[f"train@{run}"]
                assert f"embeddings@{corpus}" not in needs[f"train@{run}"]
    assert len(needs) == len(active.corpora) * (5 + 2 * len(active.systems) * len(active.seeds))


def test_dvc_compares_a_few_numbers_and_every_curve() -> None:
    """All of metrics.json would be two hundred columns of `dvc exp show`."""
    compared = {stage: paths(stage, "metrics") for stage in STAGES}
    assert {stage for stage, found in compared.items() if found} == {"train", "evaluate"}
    for stage in ("train", "evaluate"):
        assert compared[stage] == [(FOLDERS[stage] / "summary.json").as_posix()]
    for plot in GRAPH["plots"]:
        ((name, drawn),) = plot.items()
        assert list(drawn["y"]) == ["reports/${active.corpora[0]}/curves.csv"], name
        assert (drawn["x"], drawn["template"]) == ("step", "curves"), name


def test_artifacts_are_runs_of_this_project() -> None:
    params = Params.load(ROOT / "params.yaml")
    for name, artifact in GRAPH["artifacts"].items():
        corpus, system, seed = Path(artifact["path"]).parts[-3:]
        assert artifact["path"] == layout.trained(corpus, system, int(seed)).as_posix()
        assert name == f"{corpus}-{system}"
        params.corpus(corpus)
        params.system(system)


@pytest.mark.parametrize(
    ("change", "before", "after"),
    [
        ("++corpora.toy.training.num_epochs=3", ["      num_epochs: 6"], ["      num_epochs: 3"]),
        ("defaults.model.z_conv_size=7", ["    z_conv_size: 100"], ["    z_conv_size: 7"]),
        ("active.seeds=[0,1]", [], ["  - 1"]),
    ],
)
def test_an_experiment_changes_one_line_of_params_yaml(
    change: str, before: list[str], after: list[str], tmp_path: Path
) -> None:
    """DVC writes the whole file anew; written in another style, or with a comment where DVC loses it, the
    change would hide among a hundred others.
    """
    from dvc.utils.hydra import apply_overrides

    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    apply_overrides(str(tmp_path / "params.yaml"), [change])
    lines = difflib.ndiff(text.splitlines(), (tmp_path / "params.yaml").read_text().splitlines())
    changed = [line for line in lines if line[0] in "-+"]
    advice = "params.yaml: give each key a line of its own where {...} would pass column 80, and lists always"
    assert changed == [f"- {line}" for line in before] + [f"+ {line}" for line in after], advice
