"""What MLflow's pages show first of a corpus: its runs, what they are, and the columns and charts one wants.

MLflow keeps what its *Share* button saves as a tag of the experiment, and opens it by its key. Two such
views are written here for each corpus: a table of all systems, with the mean over seeds where there are
several, and the curves of all single runs. The format is MLflow's own and undocumented: a browser test sees
whether it holds.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from vhcr.recording.store import KIND, pages_url, plainly

if TYPE_CHECKING:
    from mlflow import MlflowClient

SHARED = "mlflow.sharedViewState."  # and the key of the view
TABLE, CURVES = "vhcr-table", "vhcr-curves"
SINGLE_RUNS = "tags.seed != ''"  # all but the parents of seeds

COLUMNS = (
    "metrics.`test/nll_per_word`",
    "metrics.`test/nll_per_word_deviation`",
    "metrics.`test/num_seeds`",
    "metrics.`test/reconstruction_per_word`",
    "metrics.`test/kl_conv_per_word`",
    "metrics.`test/kl_utt_per_word`",
    "metrics.`test/responses/1/average`",
    "metrics.`test/responses/1/extrema`",
    "metrics.`test/responses/1/greedy`",
    "metrics.`training/best_validation/nll_per_word`",
    "params.`system.architecture`",
    "params.`system.word_drop`",
    "params.`system.utterance_drop`",
    "params.`training.num_epochs`",
    "tags.`seed`",
    "tags.`git_commit`",
    "tags.`dirty`",
    "tags.`started_by`",
    "attributes.`Dataset`",
)
LINES = {  # section -> the curves in it
    "Validation": (
        "validation/nll_per_word",
        "validation/reconstruction_per_word",
        "validation/kl_conv_per_word",
        "validation/kl_utt_per_word",
    ),
    "Training": ("train/nll_per_word", "train/kl_per_word", "train/kl_weight", "train/words_per_second"),
}
BARS = {
    "Test": (
        "test/nll_per_word",
        "test/kl_conv_per_word",
        "test/kl_utt_per_word",
        "test/responses/1/average",
        "test/responses/1/extrema",
        "test/responses/1/greedy",
    )
}
NOTE = "mlflow.note.content"
# MLflow shows the first line of a description on every page of an experiment, its GenAI ones included.
ABOUT = """\
[All systems by their bound]({table}) · [Curves and test metrics]({curves}) · [Versions](#/models/{name})

`test/nll_per_word` is a bound on −log p in nats per word of the test split: lower is better; exact for HRED.
A row with `num_seeds` is the mean over the seeds below it. Tags with hashes say from what a run was made.
"""


def save_views(connected: MlflowClient, experiment_id: str) -> None:
    """Write the two views as tags of the experiment, where they are not there as they should be.

    It also gets its kind and a description, unless somebody has chosen others.

    Raises:
        RecordingError: MLflow cannot be reached.
    """
    with plainly():
        experiment = connected.get_experiment(experiment_id)
        stored = experiment.tags
        wanted = {
            SHARED + key: json.dumps(state, separators=(",", ":"))
            for key, state in ((TABLE, _table()), (CURVES, _curves()))
        }
        for name, kind in KIND.items():
            if "inferred" in stored.get(name, "inferred"):  # guessed by a page that saw it before it had runs
                wanted[name] = kind
        if NOTE not in stored:
            wanted[NOTE] = ABOUT.format(
                table=_view(experiment_id, TABLE),
                curves=_view(experiment_id, CURVES),
                name=experiment.name,
            )
        for name, text in wanted.items():
            if stored.get(name) != text:
                connected.set_experiment_tag(experiment_id, name, text)


def view_url(experiment_id: str, key: str) -> str:
    """The link that opens a view: ``TABLE`` or ``CURVES``."""
    return f"{pages_url()}/{_view(experiment_id, key)}"


def _view(experiment_id: str, key: str) -> str:
    mode = "&compareRunsMode=CHART" if key == CURVES else ""
    return f"#/experiments/{experiment_id}/runs?workflowType=machine_learning&viewStateShareKey={key}{mode}"


def _search(text: str, order: str, *, ascending: bool) -> dict[str, Any]:
    return {
        "searchFilter": text,
        "orderByKey": order,
        "orderByAsc": ascending,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
    }


def _table() -> dict[str, Any]:
    return {
        **_search("", "metrics.`test/nll_per_word`", ascending=True),
        "selectedColumns": list(COLUMNS),
        "columnOrder": list(COLUMNS),
        "columnWidths": {name: 24 + 7 * len(name.split("`")[1]) for name in COLUMNS},
        "compareRunsMode": "TABLE",
    }


def _curves() -> dict[str, Any]:
    sections, charts = [], []
    for kind, groups in (("LINE", LINES), ("BAR", BARS)):
        for name, metrics in groups.items():
            sections.append({"uuid": f"vhcr-{name}", "name": name, "display": True, "isReordered": True})
            charts += [_chart(kind, f"vhcr-{name}", metric) for metric in metrics]
    return {
        # Ordered by a number, runs stand side by side; by time, they would hide behind their parents.
        **_search(SINGLE_RUNS, "metrics.`test/nll_per_word`", ascending=True),
        "selectedColumns": list(COLUMNS),
        "compareRunsMode": "CHART",
        "compareRunSections": sections,
        "compareRunCharts": charts,
        "isAccordionReordered": True,
        "runsHiddenMode": "FIRST_20_RUNS",
    }


def _chart(kind: str, section: str, metric: str) -> dict[str, Any]:
    chart: dict[str, Any] = {
        "uuid": f"vhcr-{metric}",
        "type": kind,
        "runsCountToCompare": 20,
        "metricSectionId": section,
        "deleted": False,
        "isGenerated": False,
        "displayName": metric,
        "metricKey": metric,
    }
    if kind == "LINE":
        chart |= {
            "lineSmoothness": 0,
            "scaleType": "linear",
            "xAxisScaleType": "linear",
            "range": {},
            "xAxisKey": "step",
            "selectedXAxisMetricKey": "",
            "yAxisKey": "metric",
            "yAxisExpressions": [],
            "selectedMetricKeys": [metric],
            "ignoreOutliers": False,
            "useGlobalXaxisKey": True,
            "useGlobalLineSmoothing": True,
        }
    return chart
