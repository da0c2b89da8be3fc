"""Running things with Prefect: order, retries, parallel runs."""

import os

os.environ.setdefault("DO_NOT_TRACK", "1")  # before Prefect is imported
