"""A stage ends with who started it."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from tests.processes import gone, wait_for
from tests.stages.project import ROOT

# In place of DVC and of a stage that is still importing what it needs.
STAGE = "import vhcr.stages, time; print('begun', flush=True); time.sleep(60)"
DVC = (
    f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {STAGE!r}]); print(p.pid); p.wait()"
)


def test_a_stage_that_is_still_starting_up_ends_with_a_killed_dvc() -> None:
    """It looked once all was imported, on a machine at a load of eleven half a minute after DVC had gone."""
    environment = {**os.environ, "DVC_STAGE": "train", "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-c", DVC]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as dvc:
        assert dvc.stdout is not None
        first, second = (dvc.stdout.readline().strip() for _ in range(2))
        assert second == "begun"
        dvc.kill()
        killed = time.monotonic()
        wait_for(lambda: gone(int(first)), 30)
    assert time.monotonic() - killed < 30
