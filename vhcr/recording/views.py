"""Links that open MLflow's pages on the runs of a corpus with the columns and charts one wants.

MLflow keeps what its *Share* button saves as a tag of the experiment, and opens it by its key. Two such
views are written here for each corpus: a table of all systems, with the mean over seeds where there are
several, and the curves of all single runs. The format is MLflow's own and undocumented: a browser test sees
whether it holds.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from vhcr.recording.store import pages_url, plainly

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
NATS = {
    "nll_per_word": "NLL or its bound, nats per word",
    "reconstruction_per_word": "Reconstruction error, nats per word",
    "kl_conv_per_word": "KL of z_conv, nats per word",
    "kl_utt_per_word": "KL of z_utt, nats per word",
}
LINES = {  # section -> the curves in it, and what each is called
    "Validation": {f"validation/{name}": title for name, title in NATS.items()},
    "Training": {
        "train/nll_per_word": "NLL or its bound on training batches, nats per word",
        "train/kl_per_word": "KL on training batches, nats per word",
        "train/kl_weight": "Weight of the KL",
        "train/words_per_second": "Words a second",
    },
}
BARS = {
    "Test": {
        **{f"test/{name}": NATS[name] for name in ("nll_per_word", "kl_conv_per_word", "kl_utt_per_word")},
        **{
            f"test/responses/1/{metric}": f"Responses of one turn: embedding {metric}"
            for metric in ("average", "extrema", "greedy")
        },
    }
}
KIND = {"mlflow.experimentKind": "custom_model_development"}  # else it opens on an empty page for traces
NOTE = "mlflow.note.content"
ABOUT = """\
Conversation models trained by `{name}`; nats are per word, EOS counted.

- [All runs as a table]({table}), the lowest bound first, seeds below their mean
- [Curves of all runs]({curves}), and bars of the test split
- The champion and its card: [registered model {name}]({model})
"""


def save_views(connected: MlflowClient, experiment_id: str) -> None:
    """Write the two views, and what the experiment is about, as its tags; a description where it has none.

    Raises:
        RecordingError: MLflow cannot be reached.
    """
    with plainly():
        found = connected.get_experiment(experiment_id)
        stored = found.tags
        views = {TABLE: _table(), CURVES: _curves()}
        tags = {SHARED + key: json.dumps(state, separators=(",", ":")) for key, state in views.items()} | KIND
        if not stored.get(NOTE):
            tags[NOTE] = ABOUT.format(
                name=found.name,
                table=view_url(experiment_id, TABLE),
                curves=view_url(experiment_id, CURVES),
                model=f"{pages_url()}/#/models/{found.name}",
            )
        for name, text in tags.items():
            if stored.get(name) != text:
                connected.set_experiment_tag(experiment_id, name, text)


def view_url(experiment_id: str, key: str) -> str:
    """The link that opens a view: ``TABLE`` or ``CURVES``."""
    mode = "&compareRunsMode=CHART" if key == CURVES else ""
    return (
        f"{pages_url()}/#/experiments/{experiment_id}/runs"
        f"?workflowType=machine_learning&viewStateShareKey={key}{mode}"
    )


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
            charts += [_chart(kind, f"vhcr-{name}", *metric) for metric in metrics.items()]
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


def _chart(kind: str, section: str, metric: str, title: str) -> dict[str, Any]:
    chart: dict[str, Any] = {
        "uuid": f"vhcr-{metric}",
        "type": kind,
        "runsCountToCompare": 20,
        "metricSectionId": section,
        "deleted": False,
        "isGenerated": False,
        "displayName": title,
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
