"""Every test begins in the same random state; groups of tests that share what is costly to start."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """A test that drew from what others had left failed once in many runs, by which worker it fell to."""
    random.seed(0)
    np.random.seed(0)  # some libraries still draw from it
    torch.manual_seed(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """For ``--dist loadgroup``: the flows' tests share one Prefect server, those of a file their fixtures.

    Those that import MLflow, with which a process is busy for seconds, share that where they are few.
    """
    for item in items:
        place = item.path.relative_to(Path(__file__).parent)
        room = place.parts[0]
        group = {"flows": "flows", "recording": "mlflow", "registry": "mlflow"}.get(room, str(place))
        item.add_marker(pytest.mark.xdist_group(group))
