"""The database and the corpus of its own that the tests of recording use."""

from __future__ import annotations

from tests.recording.conftest import corpus, database

__all__ = ["corpus", "database"]
