"""Links that open MLflow's pages on the right columns and charts; in a real browser, too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.recording.servers import mlflow_server
from tests.recording.test_seeds import settled, trained
from vhcr import recording
from vhcr.recording import CURVES, TABLE, save_views, view_url, views


def test_views_are_written_once_and_brought_up_to_date(corpus: str) -> None:
    connected = recording.client()
    experiment = recording.experiment_id(connected, recording.experiment_name(corpus))
    save_views(connected, experiment)
    tags = connected.get_experiment(experiment).tags
    assert {views.SHARED + TABLE, views.SHARED + CURVES} <= set(tags)
    connected.set_experiment_tag(experiment, views.SHARED + TABLE, "of an older version")
    save_views(connected, experiment)
    assert connected.get_experiment(experiment).tags == tags
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    assert f"(#/models/vhcr-{corpus})" in tags[views.NOTE]
    for name, chosen in ((views.NOTE, "ours"), ("mlflow.experimentKind", "genai_development")):
        connected.set_experiment_tag(experiment, name, chosen)
    save_views(connected, experiment)
    assert connected.get_experiment(experiment).tags[views.NOTE] == "ours", "what people wrote stays"
    assert connected.get_experiment(experiment).tags["mlflow.experimentKind"] == "genai_development"
    connected.set_experiment_tag(experiment, "mlflow.experimentKind", "genai_development_inferred")
    save_views(connected, experiment)
    assert connected.get_experiment(experiment).tags["mlflow.experimentKind"] == "custom_model_development"
    assert json.loads(tags[views.SHARED + CURVES])["searchFilter"] == "tags.seed != ''"
    assert view_url(experiment, TABLE).startswith(f"{recording.pages_url()}/#/experiments/{experiment}/")


@pytest.mark.e2e
@pytest.mark.timeout(600)
def test_the_pages_show_columns_and_charts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The format of a view is MLflow's own: a newer MLflow that reads it otherwise must not pass unseen."""
    pytest.importorskip("playwright", reason="the browser tests drive Chromium through playwright")
    from playwright.sync_api import expect

    from tests.browser import launched

    monkeypatch.chdir(tmp_path)
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    for seed in range(2):
        run = trained("toy", seed, 3.0, nll_per_word=4.0 + seed / 8, kl_conv_per_word=0.25)
        run.log_rows([{"split": "validation", "step": n, "nll_per_word": 9 / n} for n in (1, 2, 3)])
    settled(run)
    save_views(recording.client(), run.experiment_id)
    with mlflow_server(tmp_path, store) as address, launched() as browser:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        page = browser.new_page(viewport={"width": 2000, "height": 1000})
        page.set_default_timeout(120_000)
        expect.set_options(timeout=120_000)
        page.goto(view_url(run.experiment_id, TABLE))
        grid = page.get_by_role("treegrid").or_(page.get_by_role("grid"))
        for text in ("test/nll_per_word_deviation", "test/kl_conv_per_word", "vhcr-ud-0", "vhcr-ud-1"):
            expect(grid.get_by_text(text, exact=True).first).to_be_visible()
        expect(grid.get_by_text("4.0625").first).to_be_visible()  # the mean, in the row of the parent
        page.screenshot(path=tmp_path / "table.png")
        page.goto("about:blank")  # else only the fragment changes, and the page keeps its state
        page.goto(view_url(run.experiment_id, CURVES))
        for section in ("Validation", "Test"):
            expect(page.get_by_text(section, exact=True).first).to_be_visible()
        expect(page.get_by_text("validation/nll_per_word").first).to_be_visible()
        expect(page.locator(".js-plotly-plot path.js-line").first).to_be_attached()
        expect(page.get_by_text("2 matching runs")).to_be_visible()  # the parent has no curves
        page.screenshot(path=tmp_path / "curves.png")
