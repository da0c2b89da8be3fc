"""Where a run's numbers go: files always (the stages write those), MLflow where it is.

    run = MlflowRun.start("vhcr-toy", "vhcr-ud-0", params=flat(...), tags=run_tags(...), run_id=earlier)
    with run:                       # marks the run finished, killed or failed
        fit(..., observers=[run])   # curves, sent in batches
        run.log_metrics({"validation/best_nll_per_word": 3.2}, step=900)

A run is resumed by its id, and no point is ever stored twice: a step that is already there is skipped, so
the rows that training repeats after a crash leave no trace. MLflow failing in the middle of a training
stops nothing; what it missed is sent again later, or by ``import_run`` from the files.
"""

from __future__ import annotations

from vhcr.recording.files import import_run, send_evaluated, send_trained
from vhcr.recording.run import MlflowRun, run_tags
from vhcr.recording.seeds import group_of, settle
from vhcr.recording.store import (
    RecordingError,
    available,
    client,
    database_uri,
    experiment_id,
    experiment_name,
    experiment_url,
    one_at_a_time,
    or_later,
    pages_url,
    plainly,
    run_url,
    store_exists,
    stored_run,
    tracking_uri,
)
from vhcr.recording.views import CURVES, TABLE, save_views, view_url

__all__ = [
    "CURVES",
    "TABLE",
    "MlflowRun",
    "RecordingError",
    "available",
    "client",
    "database_uri",
    "experiment_id",
    "experiment_name",
    "experiment_url",
    "group_of",
    "import_run",
    "one_at_a_time",
    "or_later",
    "pages_url",
    "plainly",
    "run_tags",
    "run_url",
    "save_views",
    "send_evaluated",
    "send_trained",
    "settle",
    "store_exists",
    "stored_run",
    "tracking_uri",
    "view_url",
]
