"""One process per run."""

import subprocess
import sys

import pytest

from vhcr.errors import TrainingError
from vhcr.training.lock import hold

HOLDER = """
import sys, time
from pathlib import Path
from vhcr.training.lock import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_told_who_holds_the_run_and_a_killed_holder_lets_go(tmp_path):
    """A kill -9 of `dvc repro` leaves its child running: the next attempt must say so."""
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            with (
                pytest.raises(TrainingError, match=f"process {holder.pid} is training this very run"),
                hold(tmp_path),
            ):
                pass
        finally:
            holder.kill()
    with hold(tmp_path):
        pass
