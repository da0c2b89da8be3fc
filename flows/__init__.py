"""Running things with Prefect: order, retries, parallel runs."""
