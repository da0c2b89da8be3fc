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


class StorageError(VhcrError):
    """A file cannot be written: the disk is full, the folder read-only, or a value has no form there."""


class HeldError(VhcrError):
    """Another process holds what this one needs; ``pid`` is None where it cannot be told."""

    def __init__(self, who: str, pid: int | None) -> None:
        super().__init__(f"{who} (PID {pid})" if who and pid else who or f"process {pid or 'unknown'}")
        self.who = who
        self.pid = pid


class StudyError(VhcrError):
    """A human evaluation cannot be built or read, or what should enter it does not belong there."""
