"""What flows/prefect.yaml puts on Prefect's pages: pools, limits, the nightly run, a cluster's template."""

from __future__ import annotations

import json
from typing import Any

import yaml
from prefect.utilities.templating import apply_values, find_placeholders

from flows import running
from tests.flows.conftest import ROOT, House, slow
from tests.processes import wait_for


def deployments() -> dict[str, dict[str, Any]]:
    declared = yaml.safe_load((ROOT / "flows" / "prefect.yaml").read_text())["deployments"]
    return {deployment["name"]: deployment for deployment in declared}


def test_every_deployment_is_a_flow_that_is_there_and_described() -> None:
    for name, deployment in deployments().items():
        path, _, function = deployment["entrypoint"].partition(":")
        assert f"def {function}(" in (ROOT / path).read_text(), name
        assert len(deployment["description"]) > 100, name
        assert deployment["tags"] == ["vhcr"], "the server has to refuse what the form does not know"


def test_what_runs_a_whole_graph_runs_alone() -> None:
    declared = deployments()
    for name in ("pipeline", "compare"):
        assert declared[name]["concurrency_limit"] == {"limit": 1, "collision_strategy": "ENQUEUE"}
    assert [schedule["active"] for schedule in declared["pipeline"]["schedules"]] == [False]


@slow
def test_pools_have_limits_and_keep_those_that_somebody_set(house: House) -> None:
    def limit(pool: str) -> int:
        return int(house.http.get(f"/work_pools/{pool}").json()["concurrency_limit"])

    assert (limit("cpu"), limit("gpu")) == (2, 1)
    house.http.patch("/work_pools/gpu", json={"concurrency_limit": 4}).raise_for_status()
    assert house.python("-m", "flows.deploy", "--pool", "gpu").returncode == 0
    assert limit("gpu") == 4


@slow
def test_the_nightly_run_is_there_and_off_until_somebody_wants_it(house: House) -> None:
    """With SQLAlchemy 2.1 the server once planned nothing, and said so in its log only."""

    def coming() -> int:
        wanted = {
            "deployments": {"name": {"any_": ["pipeline"]}},
            "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}},
        }
        return int(house.http.post("/flow_runs/count", json=wanted).raise_for_status().json())

    deployed = house.deployment("pipeline/pipeline")
    (schedule,) = deployed["schedules"]
    assert schedule["schedule"]["cron"] == "0 2 * * *"
    assert not schedule["active"]
    assert coming() == 0
    path = f"/deployments/{deployed['id']}/schedules/{schedule['id']}"
    house.http.patch(path, json={"active": True}).raise_for_status()
    wait_for(coming, 300, "for the server to plan nights")
    house.http.patch(path, json={"active": False}).raise_for_status()
    wait_for(lambda: coming() == 0, 300, "for the nights to be taken back")


@slow
def test_of_two_pipelines_one_runs_and_it_says_who_holds_the_project(house: House) -> None:
    """Two would fight over dvc.lock: the first waits for who is at a terminal; the second does not start."""
    lock = house.folder / ".work" / "project.lock"
    wanted = {"targets": ["download@toy"]}
    with house.worker():
        with running.hold_project("somebody at a terminal", print, wait_seconds=0, path=lock):
            first = house.start("pipeline/pipeline", settings=wanted)
            wait_for(
                lambda: "waiting: the project is held by somebody at a terminal (PID " in house.log(first),
                120,
            )
            second = house.start("pipeline/pipeline", settings=wanted)
            wait_for(lambda: house.state(second) == "AwaitingConcurrencySlot", 120)
            assert house.state(first) == "Running"
        house.reach(first, "Completed")
        house.reach(second, "Completed")


TEMPLATE = json.loads((ROOT / "flows" / "kubernetes.json").read_text())


def test_the_clusters_template_uses_every_variable_it_offers_and_no_other() -> None:
    used = {placeholder.name for placeholder in find_placeholders(TEMPLATE["job_configuration"])}
    offered = set(TEMPLATE["variables"]["properties"])
    assert used == offered
    assert set(TEMPLATE["variables"]["required"]) <= offered


def test_a_run_on_the_cluster_gets_its_gpu_the_project_and_time_for_a_checkpoint() -> None:
    variables = TEMPLATE["variables"]["properties"]
    values = {name: field["default"] for name, field in variables.items() if "default" in field}
    values |= {"image": "vhcr:1", "project_claim": "vhcr", "project_folder": "/srv/vhcr", "gpus": 2}
    manifest = apply_values(TEMPLATE["job_configuration"], values)["job_manifest"]
    pod = manifest["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 2
    assert pod["terminationGracePeriodSeconds"] >= 6 * running.STOP_SECONDS
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounted["project"] == "/srv/vhcr"
    assert {volume["name"] for volume in pod["volumes"]} == set(mounted)
    assert manifest["spec"]["backoffLimit"] == 0, "Prefect tries again, not the cluster"
    # Prefect's Kubernetes worker refuses a manifest without these, although Kubernetes has them one level up.
    assert (pod["parallelism"], pod["completions"], pod["restartPolicy"]) == (1, 1, "Never")


@slow
def test_prefect_makes_a_pool_of_the_clusters_template(house: House) -> None:
    create = ("-m", "prefect", "--no-prompt", "work-pool", "create", "cluster", "--type", "kubernetes")
    done = house.python(*create, "--base-job-template", str(ROOT / "flows" / "kubernetes.json"))
    assert done.returncode == 0, done.stdout
    stored = house.http.get("/work_pools/cluster").raise_for_status().json()
    assert stored["base_job_template"] == TEMPLATE
    deployed = house.deployment("train/train-gpu")
    path = f"/deployments/{deployed['id']}"
    for gpus, status in ((1, 204), (-1, 409)):
        answer = house.http.patch(path, json={"work_pool_name": "cluster", "job_variables": {"gpus": gpus}})
        print(answer.status_code, answer.text)
        assert answer.status_code == status
    before = {name: deployed[name] for name in ("work_pool_name", "job_variables")}
    house.http.patch(path, json=before).raise_for_status()
