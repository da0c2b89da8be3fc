"""Show the flows of flows/prefect.yaml in Prefect's pages: python -m flows.deploy (make deploy)."""

import argparse
import os
import subprocess
import sys

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentUpdate, WorkPoolCreate
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.workers.process import ProcessWorker

PREFECT_FILE = "flows/prefect.yaml"
POOLS = {  # name -> runs at once, and what it is for
    "cpu": (2, "Runs on processor cores: pipeline, train, compare."),
    "gpu": (1, "Trainings on a GPU, one at a time."),
}


def make_pool(client: SyncPrefectClient, name: str) -> bool:
    """Create a work pool of processes unless it is there; one that is there keeps its settings."""
    try:
        client.read_work_pool(name)
        return False
    except ObjectNotFound:
        limit, description = POOLS[name]
        client.create_work_pool(
            WorkPoolCreate(
                name=name,
                type="process",
                description=description,
                concurrency_limit=limit,
                base_job_template=ProcessWorker.get_default_base_job_template(),
            )
        )
        return True


def close_forms(client: SyncPrefectClient) -> list[str]:
    """Have the server refuse parameters that a flow does not know; Prefect itself lets them pass."""
    closed = []
    for deployment in client.read_deployments():
        if "vhcr" not in deployment.tags:
            continue
        schema = {**(deployment.parameter_openapi_schema or {}), "additionalProperties": False}
        client.update_deployment(deployment.id, DeploymentUpdate(parameter_openapi_schema=schema))
        closed.append(deployment.name)
    return sorted(closed)


def main() -> None:
    """Pools, deployments, and forms that refuse what they do not know."""
    parser = argparse.ArgumentParser(prog="python -m flows.deploy", description=main.__doc__)
    parser.add_argument("--pool", choices=POOLS, help="only see to it that this work pool is there")
    arguments = parser.parse_args()
    if not os.environ.get("PREFECT_API_URL"):
        sys.exit("error: PREFECT_API_URL is not set: which server? (make deploy sets it)")
    with get_client(sync_client=True) as client:
        if (trouble := client.api_healthcheck()) is not None:
            sys.exit(f"error: Prefect's server at {client.api_url} does not answer: {trouble}")
        try:
            client.read_work_pools(limit=1)
        except PrefectHTTPStatusError as refusal:
            if refusal.response.status_code != httpx.codes.UNAUTHORIZED:
                raise
            sys.exit(
                f"error: Prefect's server at {client.api_url} wants PREFECT_API_AUTH_STRING=user:password"
            )
        for pool in [arguments.pool] if arguments.pool else POOLS:
            if make_pool(client, pool):
                print(f"work pool {pool}: made")
        if arguments.pool:
            return
        deploy = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
        done = subprocess.run([*deploy, "--prefect-file", PREFECT_FILE], check=False)
        if done.returncode:
            sys.exit(done.returncode)
        print("deployed:", ", ".join(close_forms(client)))


if __name__ == "__main__":
    main()
