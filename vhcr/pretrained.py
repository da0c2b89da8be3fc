"""``from_pretrained`` of the Hugging Face Hub for trained runs; needs the extra ``hub``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import PyTorchModelHubMixin, snapshot_download
from torch import nn

from vhcr.hub import export
from vhcr.training.run import HUB_CONFIG, HUB_PARAMETERS, TrainedRun


class PretrainedModel(nn.Module, PyTorchModelHubMixin, library_name="vhcr"):  # type: ignore[misc,call-arg,unused-ignore]
    """A run that comes from, and goes to, the Hub or a folder; ``run`` is what all else works with."""

    def __init__(self, run: TrainedRun) -> None:
        super().__init__()
        self.run = run
        self.model = run.model

    def _save_pretrained(self, save_directory: Path) -> None:
        export(self.run, save_directory)

    @classmethod
    def _from_pretrained(  # what only concerns other formats is left to the library
        cls, *, model_id: str, map_location: str = "cpu", strict: bool = True, **options: Any
    ) -> PretrainedModel:
        """Read a folder, or fetch it from the Hub first."""
        assert strict
        folder = Path(model_id)
        if not folder.is_dir():
            known = ("revision", "cache_dir", "force_download", "token", "local_files_only")
            fetched = {name: options[name] for name in known if name in options}
            folder = Path(snapshot_download(model_id, allow_patterns=[HUB_CONFIG, HUB_PARAMETERS], **fetched))
        return cls(TrainedRun.load(folder, device=map_location))
