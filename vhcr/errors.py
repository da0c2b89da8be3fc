"""What can go wrong, as a short tree; every message names the file, key, line or value at fault."""

from __future__ import annotations


class VhcrError(ValueError):
    """Bad input of any kind. Commands print its message alone and exit with status 2."""


class ParameterError(VhcrError):
    """params.yaml, or a parameter given by hand, is not what the schema says."""


class CorpusError(VhcrError):
    """A raw corpus cannot be fetched, unpacked or read."""


class DataError(VhcrError):
    """A file that one stage made for another is missing, damaged or of another corpus."""


class ValidationError(VhcrError):
    """An expectation about the data failed."""


class CheckpointError(VhcrError):
    """A trained run is missing, damaged, or was made for other parameters or another vocabulary."""


class TrainingError(VhcrError):
    """Training cannot go on: a loss is not finite, or another process holds the run."""


class StudyError(VhcrError):
    """A human evaluation cannot be built or read, or what should enter it does not belong there."""
