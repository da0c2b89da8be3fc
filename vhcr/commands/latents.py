"""``vhcr explore``, ``export-latents`` and ``export-hub``: what a run knows, shown and written."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vhcr.commands.options import Checkpoint, Device, Run, generation_params, generation_section
from vhcr.errors import DataError

if TYPE_CHECKING:
    from vhcr.explore.atlas import Atlas

Split = Annotated[str, typer.Option(help="Which conversations: train, validation, test or all.")]
Topics = Annotated[int, typer.Option(min=0, help="Clusters of z_conv; 0: as many as fit best.")]


def _atlas(run: str, split: str, topics: int, checkpoint: str, device: str) -> Atlas:
    """A trained run with its conversations as points."""
    from vhcr.explore.atlas import Atlas
    from vhcr.explore.corpus import Corpus
    from vhcr.stages.resolve import resolve_run
    from vhcr.training.device import choose_device, set_up_cpu
    from vhcr.training.run import TrainedRun

    trained = TrainedRun.load(resolve_run(run), checkpoint, str(choose_device(device)))
    set_up_cpu(trained.params.training.num_threads)
    return Atlas.of(trained, Corpus.load(trained, split), topics)


def explore(
    run: Run,
    beside: Annotated[
        list[str] | None, typer.Option(help="Another run to talk with side by side; may be repeated.")
    ] = None,
    split: Split = "test",
    topics: Topics = 0,
    port: Annotated[int, typer.Option(min=0, max=65535, help="On 127.0.0.1; 0: any free one.")] = 8418,
    checkpoint: Checkpoint = "best",
    device: Device = "cpu",
) -> None:
    """Open a page, on this machine only, that maps a run's conversations; generate from it and talk.

    vhcr explore toy/vhcr-ud-bow/0 --beside toy/hred/0
    """
    import secrets

    from vhcr import loopback
    from vhcr.explore.server import address, create_app
    from vhcr.stages.resolve import resolve_run
    from vhcr.training.device import choose_device
    from vhcr.training.run import TrainedRun

    others = [
        TrainedRun.load(resolve_run(name), checkpoint, str(choose_device(device))) for name in beside or []
    ]
    listener = loopback.open_socket(port)
    typer.echo(f"{run}: inferring the latents of its conversations ...", err=True)
    atlas = _atlas(run, split, topics, checkpoint, device)
    token = secrets.token_urlsafe(16)
    page = create_app(atlas, generation_params(atlas.run.info, {}), token, others)
    typer.echo(address(listener.getsockname()[1], token))
    typer.echo("Open it in a browser of this machine. Ctrl-C ends.", err=True)
    loopback.serve(page, listener)


def export_latents(
    run: Run,
    out: Annotated[
        Path | None, typer.Option(help="Folder.  [default: exports/<corpus>/<system>/<seed>]")
    ] = None,
    level: Annotated[
        Literal["conversation", "utterance"],
        typer.Option(help="z_conv of conversations, or z_utt of utterances."),
    ] = "conversation",
    projection: Annotated[Literal["pca", "tsne"], typer.Option(help="How x and y come about.")] = "pca",
    split: Split = "test",
    topics: Topics = 0,
    checkpoint: Checkpoint = "best",
    device: Device = "cpu",
) -> None:
    """Write latents, map and topics as Parquet (Embedding Atlas opens it) and for TensorBoard's projector."""
    from vhcr.explore.files import write

    atlas = _atlas(run, split, topics, checkpoint, device)
    folder = out or Path("exports", *(str(atlas.run.info[key]) for key in ("corpus", "system", "seed")))
    for path in write(atlas, folder, level, projection):
        typer.echo(path)


def export_hub(
    run: Run,
    folder: Annotated[Path, typer.Argument(help="Where to write.")],
    checkpoint: Checkpoint = "best",
) -> None:
    """Write a run as the Hugging Face Hub expects it: safetensors, config.json, a card. Nothing is uploaded.

    The folder is a run as well: vhcr chat FOLDER
    """
    from vhcr.files import read_object
    from vhcr.hub import export
    from vhcr.stages.resolve import evaluation_of, resolve_run
    from vhcr.training.run import TrainedRun

    found = resolve_run(run)
    metrics = None
    with contextlib.suppress(DataError):  # trained but not evaluated: the card then has no numbers
        metrics = read_object(evaluation_of(found) / "metrics.json")
    trained = TrainedRun.load(found, checkpoint)
    spoken = generation_section(str(trained.info.get("corpus")))
    for path in export(trained, folder, metrics, spoken):
        typer.echo(path)
