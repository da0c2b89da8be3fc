"""Arrows point one way: which room may import which, read from the source of each file."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

EVERYWHERE = {"errors", "files", "params", "conversation"}  # what all rooms may import
FILES = EVERYWHERE | {"layout", "provenance"}  # ... where files lie, and what made them
TRAINING_LIBRARIES = {"torch", "numpy", "pyarrow", "pydantic", "safetensors"}

# Room -> the rooms of vhcr that it may import, besides itself.
MAY_IMPORT = {
    "errors": set(),
    "files": {"errors"},
    "params": {"errors", "files"},
    "conversation": set(),
    "layout": set(),
    "loopback": {"errors"},
    "provenance": {"errors", "files"},
    "tether": set(),
    "engines": {"errors", "tether"},
    "corpora": FILES | {"engines"},
    "tokenisation": FILES | {"corpora", "engines"},
    "validation": FILES | {"corpora", "tokenisation"},  # of corpora what a skipped record weighs
    "word_vectors": {"errors", "files"},
    "preset": set(),
    "inspection": FILES | {"corpora", "preset", "tokenisation"},
    "embeddings": FILES | {"tokenisation", "word_vectors"},
    "batch": {"errors", "tokenisation"},
    "token_files": FILES | {"batch", "tokenisation"},
    "models": EVERYWHERE | {"batch", "tokenisation"},  # the id of UNK, which drops put in
    "generation": EVERYWHERE | {"batch", "token_files", "models", "tokenisation", "training"},
    "training": FILES | {"batch", "token_files", "models", "tokenisation"},
    "evaluation": EVERYWHERE
    | {"batch", "token_files", "models", "training", "generation", "tokenisation", "word_vectors"},
    "results": FILES | {"evaluation"},  # its records
    "recording": FILES | {"training", "results"},
    "hub": {"files", "training"},
    "pretrained": {"hub", "training"},
    "explore": FILES
    | {"batch", "token_files", "generation", "loopback", "models", "tokenisation", "training"},
    "serving": FILES
    | {"batch", "token_files", "generation", "loopback", "models", "tokenisation", "training"},
    "registry": FILES | {"evaluation", "recording", "report", "results", "serving", "tokenisation"},
    "reproduction": FILES | {"recording", "training"},
    "report": FILES | {"evaluation", "results"},  # of evaluation its records
    # The text it shows, intervals (arithmetic), and the paper's figures.
    "human_evaluation": FILES | {"loopback", "tokenisation", "results", "report"},
    "summary": FILES,
}
ANY_ROOM = {"stages", "commands", "cli"}
NO_TORCH = (
    "errors",
    "params",
    "conversation",
    "files",
    "layout",
    "corpora",
    "tokenisation",
    "results",
    "report",
    "human_evaluation",
    "summary",
)
TERMINAL = "progress.py"
BARE_WORKER = ("batch", "token_files", "models", "training")


def rooms() -> list[str]:
    found = {path.stem for path in (ROOT / "vhcr").glob("*.py")} - {"__init__", "__main__"}
    return sorted(found | {path.parent.name for path in (ROOT / "vhcr").glob("*/__init__.py")})


def files(room: str) -> list[Path]:
    single = ROOT / "vhcr" / f"{room}.py"
    return [single] if single.exists() else sorted((ROOT / "vhcr" / room).rglob("*.py"))


def modules(tree: ast.AST) -> Iterator[str]:
    """Full names of everything a syntax tree imports, at run time or for type checking, anywhere in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide which room is meant"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imports(path: Path) -> list[str]:
    return list(modules(ast.parse(path.read_text(encoding="utf-8"))))


def rooms_of(names: list[str]) -> set[str]:
    return {name.split(".")[1] for name in names if name.startswith("vhcr.")}


def libraries_of(names: list[str]) -> set[str]:
    found = {name.split(".")[0] for name in names}
    return found - set(sys.stdlib_module_names) - {"vhcr", "__future__"}


def imported_when_loaded(path: Path) -> set[str]:
    """Libraries that a file imports as soon as it is itself imported (not inside a function)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    return libraries_of(list(modules(ast.Module(body=list(top), type_ignores=[]))))


def test_the_reader_of_imports_sees_all_forms() -> None:
    code = (
        "import a.b\nfrom vhcr import layout, recording\ndef f():\n    from vhcr.models.gaussian import kl\n"
    )
    names = list(modules(ast.parse(code)))
    assert names == ["a.b", "vhcr.layout", "vhcr.recording", "vhcr.models.gaussian.kl"]
    assert rooms_of(names) == {"layout", "recording", "models"}
    assert libraries_of(names) == {"a"}


def loaded_with(module: str) -> set[str]:
    """All that is imported when a module of vhcr is, followed from file to file."""
    found: set[str] = set()
    pending = [module]
    while pending:
        name = pending.pop()
        parts = name.split(".")
        path = ROOT.joinpath(*parts[:-1], f"{parts[-1]}.py")
        if not path.exists():
            path = ROOT.joinpath(*parts, "__init__.py")
        if name in found or not path.exists():  # a name within a module
            continue
        found.add(name)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        top = ast.Module([n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)], [])
        for imported in modules(top):
            found |= libraries_of([imported])
            pending += [imported, imported.rpartition(".")[0]] if imported.startswith("vhcr.") else []
    return found


def test_models_see_tensors_alone() -> None:
    """Section 3 of the paper needs no file: importing a model once loaded Parquet and where files lie."""
    found = loaded_with("vhcr.models")
    assert "vhcr.models.kernels.recurrent" in found
    libraries = {name for name in found if not name.startswith("vhcr")}
    assert libraries == {"torch", "numpy", "pydantic"}
    assert not found & {"vhcr.layout", "vhcr.token_files", "vhcr.tokenisation.vocabulary"}


def test_every_room_has_its_arrows() -> None:
    """A new room must say here what it may import."""
    assert set(rooms()) - ANY_ROOM <= set(MAY_IMPORT)


@pytest.mark.parametrize("room", rooms())
def test_arrows_point_one_way(room: str) -> None:
    if room in ANY_ROOM:
        return
    for path in files(room):
        used = rooms_of(imports(path)) - {room}
        assert used <= MAY_IMPORT[room], f"{path.relative_to(ROOT)} imports {used - MAY_IMPORT[room]}"


@pytest.mark.parametrize("room", BARE_WORKER)
def test_a_bare_gpu_worker_can_train(room: str) -> None:
    for path in files(room):
        if path.name == TERMINAL:
            continue
        used = libraries_of(imports(path))
        assert used <= TRAINING_LIBRARIES, f"{path.relative_to(ROOT)}: {used - TRAINING_LIBRARIES}"


def test_what_training_uses_of_other_rooms_is_as_bare() -> None:
    """A room may hold heavier files too; those that training reaches need torch at most."""
    waiting = [path for path in files("training") if path.name != TERMINAL]
    seen: set[Path] = set()
    while waiting:
        path = waiting.pop()
        seen.add(path)
        used = libraries_of(imports(path))
        assert used <= TRAINING_LIBRARIES | {"yaml"}, f"{path.relative_to(ROOT)}: {used}"
        for name in imports(path):
            parts = name.split(".")
            for known in (parts, parts[:-1]):
                file = ROOT.joinpath(*known).with_suffix(".py")
                if file.exists() and file not in seen:
                    waiting.append(file)
    assert ROOT / "vhcr" / "training" / "moments.py" in seen


def test_the_room_that_trains_does_not_load_the_terminal() -> None:
    """The progress bar is an observer that a stage brings along; it may need more than a worker has."""
    for room in BARE_WORKER:
        for path in files(room):
            assert not any(name.startswith("vhcr.training.progress") for name in imports(path)), path


@pytest.mark.parametrize("room", NO_TORCH)
def test_rooms_that_need_no_torch_do_without(room: str) -> None:
    for path in files(room):
        assert "torch" not in libraries_of(imports(path)), path.relative_to(ROOT)


def test_models_know_nothing_of_files_or_logging() -> None:
    forbidden = {"pathlib", "logging", "os", "io", "json", "csv", "pyarrow"}
    for path in files("models"):
        used = {name.split(".")[0] for name in imports(path)} & forbidden
        assert not used, f"{path.relative_to(ROOT)} imports {used}"


def test_prefect_lives_in_flows_alone() -> None:
    for path in sorted((ROOT / "vhcr").rglob("*.py")):
        assert "prefect" not in libraries_of(imports(path)), path.relative_to(ROOT)
        assert "flows" not in libraries_of(imports(path)), path.relative_to(ROOT)


def test_flows_know_stages_only_by_name() -> None:
    """A flow may read settings, places and records; the science it reaches through DVC."""
    allowed = EVERYWHERE | {"layout", "recording", "provenance", "tether"}
    for path in sorted((ROOT / "flows").glob("*.py")):
        used = rooms_of(imports(path))
        assert used <= allowed, f"{path.relative_to(ROOT)} imports {used - allowed}"


def test_flow_files_evaluate_their_annotations() -> None:
    """Prefect resolves parameter types of a served script; as strings they are "not fully defined"."""
    for path in sorted((ROOT / "flows").glob("*.py")):
        assert "__future__.annotations" not in imports(path), path.relative_to(ROOT)


def test_what_every_command_imports_is_light() -> None:
    """`--help` and a stage that needs no torch must not pay seconds for it."""
    heavy = {
        "torch",
        "mlflow",
        "polars",
        "gensim",
        "great_expectations",
        "prefect",
        "matplotlib",
        "dvc",
        "pandas",
        "fastapi",
        "uvicorn",
        "krippendorff",
    }
    light = (
        "errors",
        "params",
        "conversation",
        "layout",
        "provenance",
        "recording",
        "summary",
        "commands",
        "cli",
    )
    shared = [path for room in (*light, "commands", "cli") for path in files(room)] + [
        ROOT / "vhcr" / "stages" / "common.py"
    ]
    for path in shared:
        assert not imported_when_loaded(path) & heavy, path.relative_to(ROOT)


def test_there_is_no_utils_room() -> None:
    names = {path.stem for path in (ROOT / "vhcr").rglob("*.py")}
    assert not names & {"utils", "util", "helpers", "misc"}
