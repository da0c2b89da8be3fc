"""``vhcr serve``: a run answers over HTTP."""

from __future__ import annotations

from typing import Annotated

import typer

from vhcr.commands.options import Checkpoint, Device, Run, generation_params


def serve(
    run: Run,
    port: Annotated[int, typer.Option(min=0, max=65535, help="On 127.0.0.1; 0: any free one.")] = 5001,
    checkpoint: Checkpoint = "best",
    device: Device = "cpu",
) -> None:
    """Answer over HTTP on this machine, as `mlflow models serve` does, without MLflow.

    curl -s http://127.0.0.1:5001/invocations -H 'Content-Type: application/json'
    -d '{"inputs": [{"context": ["hello"]}], "params": {"num_turns": 2}}'
    """
    from vhcr import loopback
    from vhcr.serving.answer import Answerer
    from vhcr.serving.server import create_app
    from vhcr.stages.resolve import resolve_run
    from vhcr.training.device import choose_device, set_up_cpu
    from vhcr.training.run import TrainedRun

    trained = TrainedRun.load(resolve_run(run), checkpoint, str(choose_device(device)))
    set_up_cpu(trained.params.training.num_threads)
    listener = loopback.open_socket(port)
    page = create_app(Answerer.of(trained, generation_params(trained.info, {})))
    typer.echo(f"http://{loopback.ADDRESS}:{listener.getsockname()[1]}/invocations")
    loopback.serve(page, listener)
