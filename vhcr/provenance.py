"""What made a number: version of the code, of the libraries, and the kind of machine (never its name)."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from vhcr.files import read_object

# What decides a number. params.yaml and dvc.lock are left out: parameters are recorded with each run, and
# the lock file is a result.
CODE = ("vhcr", "flows", "dvc.yaml", "pyproject.toml", "constraints.txt")
LIBRARIES = ("torch", "numpy", "pyarrow", "polars", "gensim", "mlflow", "dvc", "prefect")


class CodeVersion(NamedTuple):
    """The git commit, or None outside a repository; ``dirty`` where the code differs from it."""

    commit: str | None
    dirty: bool


def read_run(folder: Path) -> dict[str, Any]:
    """All that a trained run says of itself: run.json, and provenance.json where it is there.

    run.json is the same whenever and wherever the run is made again; provenance.json says where and when it
    was made this time.

    Raises:
        DataError: run.json is missing, or one of the two is damaged.
    """
    info = read_object(folder / "run.json")
    if (folder / "provenance.json").exists():
        info |= read_object(folder / "provenance.json")
    return info


def code_version(root: Path | str = ".") -> CodeVersion:
    """The commit that ``root`` is at, and whether its code differs from that commit.

    New files count as a difference; changed parameters do not, being recorded with every run. In a folder
    that links to the code elsewhere (a run that a flow made), that place is meant.
    """
    code = Path(root) / CODE[0]
    root = code.resolve().parent if code.is_symlink() else root
    commit = _git(root, "rev-parse", "--verify", "--quiet", "HEAD")
    if commit is None:
        return CodeVersion(None, dirty=False)
    return CodeVersion(commit.strip(), dirty=bool(_git(root, "status", "--porcelain", "--", *CODE)))


def versions() -> dict[str, str]:
    """Python and the libraries that numbers depend on, those that are installed."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, str | int | float]:
    """Processor model, usable cores, memory in GiB, system: the kind of machine, not which one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    described: dict[str, str | int | float] = {
        "cpu": _cpu_model(),
        "cores": cores,
        "system": platform.system(),
    }
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        num_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        described["memory_gib"] = round(num_bytes / 2**30, 1)
    return described


def dvc_hash(path: Path) -> str:
    """The hash that DVC gives a file (MD5 of its bytes) or a folder (MD5 of the list of its files, ``.dir``).

    Of what lies there now: dvc.lock says what lay there when its stage last ran.

    Raises:
        OSError: there is no such file, or it cannot be read.
    """
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    files = sorted(file for file in path.rglob("*") if file.is_file())
    listed = [{"md5": dvc_hash(file), "relpath": file.relative_to(path).as_posix()} for file in files]
    listed.sort(key=lambda entry: entry["relpath"])
    text = json.dumps(listed, sort_keys=True)
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() + ".dir"


def mismatches(constraints: Path, pyproject: Path) -> list[str]:
    """What keeps this environment from being the pinned set: one line per package, empty when it is.

    Every package that ``pyproject`` asks for has to be installed, this one included, and every installed
    package that ``constraints`` names has to have the version given there.
    """
    import tomllib

    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    wanted = [project["name"], *project["dependencies"]]
    for extra in project["optional-dependencies"].values():
        wanted.extend(extra)
    installed = {
        _canonical(distribution.name): distribution.version
        for distribution in importlib.metadata.distributions()
    }
    names = {_canonical(re.split(r"[^A-Za-z0-9._-]", requirement)[0]) for requirement in wanted}
    problems = [f"{name} is not installed" for name in sorted(names - installed.keys())]
    for line in constraints.read_text(encoding="utf-8").splitlines():
        name, separator, version = line.split("#")[0].strip().partition("==")
        found = installed.get(_canonical(name))
        # A local label (2.13.0+cpu) names a build of the same version.
        if separator and found is not None and found.split("+")[0] != version:
            problems.append(f"{name} is {found}, pinned to {version}")
    return problems


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _git(root: Path | str, *arguments: str) -> str | None:
    """What git prints, or None where there is no git or no repository."""
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def main() -> None:
    """Exit with 0 where this environment is the pinned set, else say what differs and exit with 1."""
    problems = mismatches(Path("constraints.txt"), Path("pyproject.toml"))
    print("\n".join(problems) or "this environment is the pinned set")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
