"""The README names what there is, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.test_architecture import rooms
from tests.test_makefile import TARGETS

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")


def test_the_map_names_every_room_of_the_house() -> None:
    shown = TEXT.split("## The map of the house")[1].split("```")[1]
    for room in rooms():
        file = f"{room}.py" if (ROOT / "vhcr" / f"{room}.py").exists() else f"{room}/"
        assert re.search(rf"(^|\s){re.escape(file)}(\s|$)", shown), f"{file} is not in the map"
    for name in re.findall(r"[a-z_]+\.py|[a-z_]+/", shown):
        places = (
            ROOT,
            ROOT / "tests",
            ROOT / "vhcr",
            *(path for path in (ROOT / "vhcr").rglob("*") if path.is_dir()),
        )
        found = any((place / name).exists() for place in places)
        assert found, f"the map names {name}, which is not there"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_page_of_docs_can_be_reached() -> None:
    linked = {Path(target).name for target in LINK.findall(TEXT)}
    assert {page.name for page in (ROOT / "docs").glob("*.md")} <= linked


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_target_of_make_that_is_named_exists(page: Path) -> None:
    code = re.findall(r"`+([^`]+)`+", page.read_text(encoding="utf-8"))
    named = {name for part in code for name in re.findall(r"\bmake ([a-z0-9-]+)", part)}
    assert named <= TARGETS
