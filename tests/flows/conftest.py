"""Places and servers for the flows' tests.

``project``: a DVC project of four stages that take no time (download, two trainings side by side, a report).
``house``: the real pipeline over a corpus of a few conversations, with a Prefect server and workers.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from tests.processes import free_port, running, serving, wait_for

ROOT = Path(__file__).resolve().parent.parent.parent

GRAPH = """
stages:
  download:
    matrix: {corpus: [toy]}
    cmd: python stage.py raw.txt
    outs: [raw.txt]
  train:
    matrix: {corpus: [toy], system: [a, b]}
    cmd: python stage.py ${item.system}.txt raw.txt
    deps: [raw.txt]
    outs: ["${item.system}.txt"]
  report:
    matrix: {corpus: [toy]}
    cmd: python stage.py reports/toy/table.json a.txt b.txt
    deps: [a.txt, b.txt]
    outs: [reports/toy]
"""

# A stage that is told to wait does so until the file `go` is there, and says that it has begun.
STAGE = """
import json, os, pathlib, sys, time

out, *needs = sys.argv[1:]
print("making", out, "for flow run", os.environ.get("VHCR_FLOW_RUN_ID"), flush=True)
if out in os.environ.get("WAITING", "").split():
    pathlib.Path("begun." + out).write_text(str(os.getpid()))
    while not pathlib.Path("go").exists():
        time.sleep(0.02)
if pathlib.Path("broken").exists() and out in pathlib.Path("broken").read_text().split():
    tries = pathlib.Path("tries")
    with tries.open("a") as file:
        file.write(out + chr(10))
    sys.exit("error: raw.txt: line 3 is not text")
text = "".join(pathlib.Path(need).read_text() for need in needs) + out
path = pathlib.Path(out)
path.parent.mkdir(parents=True, exist_ok=True)
if path.suffix == ".json":
    (path.parent / "index.html").write_text("<title>report</title>")
    text = json.dumps([{"system": "a", "seed": 0, "nll_per_word": 1.5}])
path.write_text(text)
"""


def slow(test: Callable[..., None]) -> Callable[..., None]:
    """Real workers and trainings, which a busy machine slows down; the first also waits for the house."""
    return pytest.mark.slow(pytest.mark.timeout(1500)(test))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project's root, which is also the working directory."""
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text(
        "[core]\n    no_scm = true\n    analytics = false\n    check_update = false\n"
        f"    site_cache_dir = {tmp_path / '.site'}\n"
    )
    (tmp_path / "dvc.yaml").write_text(GRAPH)
    (tmp_path / "stage.py").write_text(textwrap.dedent(STAGE))
    (tmp_path / "params.yaml").write_text("")
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    monkeypatch.chdir(tmp_path)
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    monkeypatch.setenv("PATH", path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    return tmp_path


def dvc(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run DVC in the working directory; errors are part of its output."""
    return subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prefect server that stays, as `make prefect` starts it; gives the address of its API."""
    home = tmp_path_factory.mktemp("prefect")
    (home / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    port = free_port()
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    environment = {**os.environ, "DO_NOT_TRACK": "1", "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "5"}
    api = f"http://127.0.0.1:{port}/api"
    with serving(command, f"{api}/health", home / "log", cwd=home, env=environment):
        yield api


ANSWER_SECONDS = 200  # the server itself waits for its database for 60 s, perhaps more than once


class Patient(httpx.HTTPTransport):
    """Asks again where a busy server says so, as Prefect's own client does."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        for _ in range(20):
            answer = super().handle_request(request)
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                break
            answer.close()
            time.sleep(0.5)
        return answer


class House:
    """The project itself over few conversations, with what a person has at hand in Prefect's pages."""

    def __init__(self, folder: Path, api: str, http: httpx.Client) -> None:
        self.folder = folder
        self.api = api
        self.http = http
        path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
        self.environment = {
            **{name: value for name, value in os.environ.items() if name != "VHCR_MLFLOW"},
            "PATH": path,
            "PWD": str(folder),
            "PYTHONPATH": str(folder),
            "PREFECT_API_URL": api,
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
            "DO_NOT_TRACK": "1",
        }

    def python(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=280,
        )

    @contextlib.contextmanager
    def worker(self, pool: str = "cpu", **environment: str) -> Iterator[subprocess.Popen[bytes]]:
        """A worker, as `make worker` starts it."""
        command = [sys.executable, "-m", "prefect", "worker", "start", "--type", "process", "--pool", pool]
        log = self.folder / f"worker-{time.monotonic_ns()}.log"
        with running(command, log, cwd=self.folder, env={**self.environment, **environment}) as process:
            wait_for(lambda: "started!" in log.read_text(), 120, "for a worker")
            yield process

    def deployment(self, name: str) -> dict[str, Any]:
        return self.http.get(f"/deployments/name/{name}").raise_for_status().json()  # type: ignore[no-any-return]

    def ask(self, name: str, **parameters: Any) -> httpx.Response:
        """Press Run; the answer is a flow run, or the reason why there is none."""
        path = f"/deployments/{self.deployment(name)['id']}/create_flow_run"
        return self.http.post(path, json={"parameters": parameters})

    def start(self, name: str, **parameters: Any) -> str:
        answer = self.ask(name, **parameters)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def state(self, run: str) -> str:
        return str(self.http.get(f"/flow_runs/{run}").raise_for_status().json()["state"]["name"])

    def set_state(self, run: str, kind: str, name: str, *, force: bool = False) -> None:
        state = {"type": kind, "name": name}
        answer = self.http.post(f"/flow_runs/{run}/set_state", json={"state": state, "force": force})
        assert answer.json()["status"] == "ACCEPT", answer.text

    def cancel(self, run: str) -> None:
        self.set_state(run, "CANCELLING", "Cancelling")

    def retry(self, run: str) -> None:
        self.set_state(run, "SCHEDULED", "AwaitingRetry", force=True)

    def reach(self, run: str, *states: str, seconds: float = 600.0) -> str:
        """Wait until the run is in one of ``states``, or in another from which it will not move."""
        final = {"Completed", "Failed", "Crashed", "Cancelled", *states}
        state: str = wait_for(
            lambda: found if (found := self.state(run)) in final else "", seconds, f"for {states}"
        )
        assert state in states, f"{state}\n{self.log(run)}"
        return state

    def end_all(self) -> list[str]:
        """Take back what a test has left: the next one has the workers to itself. Gives their names."""
        open_states = ["SCHEDULED", "PENDING", "RUNNING", "PAUSED", "CANCELLING"]
        wanted = {"flow_runs": {"state": {"type": {"any_": open_states}}}}
        left = self.http.post("/flow_runs/filter", json=wanted).raise_for_status().json()
        for run in left:
            state = {"state": {"type": "CANCELLED", "name": "Cancelled"}}
            self.http.post(f"/flow_runs/{run['id']}/set_state", json=state).raise_for_status()
        return [run["name"] for run in left]

    def log(self, run: str) -> str:
        wanted = {"logs": {"flow_run_id": {"any_": [run]}}, "sort": "TIMESTAMP_ASC"}
        return "\n".join(line["message"] for line in self.http.post("/logs/filter", json=wanted).json())

    def artifacts(self, run: str) -> dict[str, dict[str, Any]]:
        """By the first word of their key; the newest of each. What Prefect keeps for states has none."""
        wanted = {
            "artifacts": {"flow_run_id": {"any_": [run]}, "key": {"exists_": True}},
            "sort": "CREATED_DESC",
        }
        found: dict[str, dict[str, Any]] = {}
        for artifact in self.http.post("/artifacts/filter", json=wanted).json():
            found.setdefault(artifact["key"].partition("-")[0], artifact)
        return found

    def trainings(self) -> list[psutil.Process]:
        """Processes that train in one of the rooms."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                known = "vhcr.stages.train" in (process.info["cmdline"] or ())
                if known and Path(process.cwd()).is_relative_to(self.folder):
                    found.append(process)
        return found

    def steps_done(self, run: str) -> int:
        """How far its progress artifact says it is."""
        text = self.artifacts(run).get("progress", {}).get("description") or ""
        return int(text.split("|")[-7].partition(" of ")[0].replace(",", "")) if text else 0

    def rooms(self, corpus: str = "toy") -> list[Path]:
        return sorted((self.folder / "runs" / corpus).glob("*"))


@contextlib.contextmanager
def open_house(folder: Path, api: str = "") -> Iterator[House]:
    """The project in ``folder``, its code linked, its corpus and evaluation made small."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    toy = params["corpora"]["toy"]
    toy["source"]["toy"] = {"num_conversations": 150, "seed": 0}
    toy["validation"]["max_unknown_fraction"] = 0.5
    toy["embeddings"]["epochs"] = 1
    toy["training"] |= {"batch_conversations": 10, "checkpoint_seconds": 1}
    toy["evaluation"] = {"importance_samples": 2, "importance_conversations": 2, "bootstrap_samples": 10}
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    for name in ("vhcr", "flows"):
        (folder / name).symlink_to(ROOT / name, target_is_directory=True)
    for name in ("dvc.yaml", ".dvcignore", "pyproject.toml"):
        (folder / name).write_text((ROOT / name).read_text())
    (folder / ".dvc").mkdir()
    (folder / ".dvc" / "config").write_text(
        "[core]\n    no_scm = true\n    analytics = false\n    check_update = false\n"
        "[cache]\n    type = reflink,hardlink,copy\n"
    )
    with httpx.Client(base_url=api, timeout=ANSWER_SECONDS, transport=Patient()) as http:
        yield House(folder, api, http)


@pytest.fixture(scope="session")
def house(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """The project with its flows deployed, and no worker yet."""
    with open_house(tmp_path_factory.mktemp("house"), server) as made:
        done = made.python("-m", "flows.deploy")
        assert done.returncode == 0, done.stdout
        yield made


@pytest.fixture(autouse=True)
def no_orphans(request: pytest.FixtureRequest) -> Iterator[None]:
    """In the end no training is left without a flow, whatever a test does to it, and no run for the next."""
    yield
    if "house" in request.fixturenames:
        house = request.getfixturevalue("house")
        runs, left = house.end_all(), house.trainings()
        for training in left:
            with contextlib.suppress(psutil.NoSuchProcess):  # it ended in between
                training.kill()
        assert (runs, left) == ([], [])
