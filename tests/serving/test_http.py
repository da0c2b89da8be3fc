"""`mlflow models serve`: conversations over HTTP, and refusals that say why."""

from __future__ import annotations

import json
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.processes import free_port, serving
from tests.registry.runs import evaluated_run
from tests.stages.project import ROOT
from vhcr.registry import register


def ask(address: str, body: Any) -> tuple[int, Any]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(
        f"{address}/invocations", data=data, headers={"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_champion_answers_over_http(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    register(*evaluated_run("invented"))
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command = [
        sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/vhcr-invented@champion",
        "--env-manager", "local", "--port", str(port), "--workers", "1",
    ]  # fmt: skip
    environment = {
        **os.environ,
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    with serving(command, f"{address}/health", tmp_path / "serve.log", cwd=tmp_path, env=environment):
        context = {"context": ["hello how are you ?"]}
        params = {"strategy": "sample", "temperature": 0.9, "top_p": 0.95, "num_turns": 2, "seed": 4}
        status, first = ask(address, {"inputs": [context, {"context": []}], "params": params})
        assert status == 200, first
        assert [len(found["turns"][0]) for found in first["predictions"]] == [2, 2]
        status, again = ask(address, {"dataframe_records": [context], "params": params})
        assert (status, again["predictions"][0]) == (200, first["predictions"][0])
        status, other = ask(address, {"inputs": [context], "params": {**params, "seed": 5}})
        assert other["predictions"][0] != first["predictions"][0]
        for body, said in (
            ({"inputs": [context], "params": {"strategy": "smaple"}}, "strategy = 'smaple'"),
            ({"inputs": [context], "params": {"temprature": 1.0}}, "temprature: unknown parameter"),
            ({"inputs": [context], "params": {"num_turns": "two"}}, "num_turns"),
            ({"inputs": [context], "params": {"num_turns": 1000}}, "num_turns = 1000"),
            ({"inputs": [context], "params": {"latent_scale": 1e39}}, "latent_scale = 1e+39"),
            ({"inputs": [context], "params": {"z_conv": [1e39] * 3}}, "z_conv.0 = 1e+39"),
            ({"inputs": [{"context": [""]}]}, "there is no word in ''"),
            ({"inputs": [{"context": "hello"}]}, "Expected data to be list"),
            ({"inputs": [{"contxt": ["hello"]}]}, "missing inputs ['context']"),
            ({"questions": [context]}, "exactly one of the input fields"),
            (b"{not json", "valid JSON"),
        ):
            status, refusal = ask(address, body)
            assert status == 400, (body, refusal)
            assert said in refusal["message"], (body, refusal)
