"""MLflow's server and PostgreSQL for tests."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.processes import free_port, serving


@contextlib.contextmanager
def mlflow_server(folder: Path, store: str, *more: str) -> Iterator[str]:
    """MLflow's tracking server over ``store``; yields its address."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
        "--workers", "1", *more,
    ]  # fmt: skip
    environment = {
        **os.environ,
        "DO_NOT_TRACK": "1",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        # Not an argument: its password must not show in a list of processes.
        "MLFLOW_BACKEND_STORE_URI": store,
    }
    log = folder / "mlflow-server.log"
    with serving(command, f"{address}/health", log, cwd=folder, env=environment):
        yield address


@contextlib.contextmanager
def postgresql(password: str) -> Iterator[str]:
    """Debian's PostgreSQL with a database ``mlflow``; yields its address, password and all."""
    binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    assert binaries, "this test needs PostgreSQL (Debian: apt-get install postgresql)"
    # Not in a folder of pytest's, which are closed to other users.
    found, data = binaries[-1], Path(tempfile.mkdtemp(prefix="vhcr-postgresql-"))
    # It refuses to run as root; the package has made it a user of its own.
    root = os.geteuid() == 0
    user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if root else []
    secret = data / "password"
    secret.write_text(password)
    if root:
        shutil.chown(data, "postgres", "postgres")
        shutil.chown(secret, "postgres", "postgres")
    port = free_port()

    def run(*command: str) -> None:
        done = subprocess.run(
            [*user, *command], cwd="/", capture_output=True, text=True, check=False,
            env={**os.environ, "PGPASSWORD": password, "LC_ALL": "C.UTF-8"},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr

    options = f"-p {port} -h 127.0.0.1 -k {data} -c fsync=off"
    control = [str(found / "pg_ctl"), "-D", str(data / "db"), "-w"]
    try:
        run(str(found / "initdb"), "-D", str(data / "db"), "-U", "ann", "-A", "scram-sha-256",
            f"--pwfile={secret}", "--no-sync")  # fmt: skip
        try:
            run(*control, "-t", "120", "-l", str(data / "log"), "-o", options, "start")
            run(str(found / "createdb"), "-h", "127.0.0.1", "-p", str(port), "-U", "ann", "mlflow")
            yield f"postgresql://ann:{password}@127.0.0.1:{port}/mlflow"
        finally:
            run(*control, "-m", "immediate", "stop")  # also one whose start took too long
    finally:
        shutil.rmtree(data, ignore_errors=True)
