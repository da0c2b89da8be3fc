"""`vhcr register`, `vhcr runs` and `vhcr reproduce` as they are typed."""

from __future__ import annotations

import shutil

import pytest
from typer.testing import CliRunner

from tests.registry.runs import evaluated_run
from vhcr import cli, recording
from vhcr.errors import VhcrError


def typed(*arguments: str) -> str:
    result = CliRunner().invoke(cli.app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_a_run_is_registered_by_name_and_compared_by_links(corpus: str) -> None:
    evaluated_run(corpus)
    assert typed("register", f"{corpus}/vhcr-ud/0") == f"vhcr-{corpus} version 1: champion: the first\n"
    again = typed("register", f"{corpus}/vhcr-ud/0")
    assert again == f"vhcr-{corpus} version 1 (registered before): champion: the first\n"
    experiment = recording.client().get_experiment_by_name(f"vhcr-{corpus}")
    shown = typed("runs")
    for key in (recording.TABLE, recording.CURVES):
        assert recording.view_url(experiment.experiment_id, key) in shown


def test_what_cannot_be_registered_or_reproduced_says_why(corpus: str) -> None:
    folder, out = evaluated_run(corpus)
    with pytest.raises(VhcrError, match="does not say which files it read"):
        typed("reproduce", str(folder))
    shutil.rmtree(out)
    with pytest.raises(VhcrError, match="no evaluation of this run lies in data/evaluated"):
        typed("register", str(folder))
