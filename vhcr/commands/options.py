"""Options that several commands share, and the run that they name, ready to speak."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vhcr.generation.limits import MAX_LATENT_SCALE, MAX_SEED

if TYPE_CHECKING:
    from vhcr.generation.respond import Responder
    from vhcr.params import GenerationParams
    from vhcr.tokenisation.vocabulary import Vocabulary

SEPARATOR = "|"  # between the turns of a context; the tokeniser keeps no such character

# How text is generated where params.yaml does not say.
DEFAULTS: dict[str, Any] = {
    "strategy": "greedy",
    "max_words": 30,
    "unknown_words": "allow",
    "beam_size": 5,
    "length_penalty": 1.0,
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "z_conv_from": "posterior",
}

Run = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="A trained run: its folder, corpus/system/seed, an MLflow run id, or models:/<name>@<alias>.",
    ),
]
DECODING = "How utterances are decoded (default: generation in params.yaml)"


def _of_decoding(kind: Any, says: str) -> Any:
    return Annotated[kind | None, typer.Option(help=says, rich_help_panel=DECODING)]


# Fields of ``GenerationParams`` that a command line may set.
DECODING_OPTIONS = {
    "strategy": _of_decoding(Literal["greedy", "beam", "sample"], "Decoding strategy."),
    "temperature": _of_decoding(float, "Of sampling; implies it."),
    "top_k": _of_decoding(int, "Sample among the k likeliest words; 0: all."),
    "top_p": _of_decoding(float, "Sample within this mass."),
    "beam_size": _of_decoding(int, "Hypotheses kept by beam search; implies it."),
    "length_penalty": _of_decoding(float, "A beam's score is log p / words ** penalty; implies beam."),
    "max_words": _of_decoding(int, "Longest utterance, its end counted."),
    "unknown_words": _of_decoding(Literal["allow", "never"], "Whether <unk> may be said."),
    "z_conv_from": _of_decoding(
        Literal["posterior", "prior"], "Draw z_conv given the context, or from N(0, I)."
    ),
}
Decoding = dict[str, Any]  # those of them that were given
LatentScale = Annotated[
    float,
    typer.Option(
        help=f"Times the deviation of z_conv and z_utt, at most {MAX_LATENT_SCALE:g}; 0: their means.",
        rich_help_panel=DECODING,
    ),
]
Seed = Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Equal seeds give equal text.")]
Turns = Annotated[int, typer.Option(min=1, help="Turns to generate; each hears those before it.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line instead of text.")]
Opening = Annotated[str | None, typer.Option(help="First utterance, given rather than generated.")]
Checkpoint = Annotated[
    Literal["best", "last"], typer.Option(help="Lowest validation bound, or end of training.")
]
Device = Annotated[Literal["cpu", "cuda", "auto"], typer.Option(help="Where to compute.")]


def decodes(*left_out: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command that has ``decoding`` takes ``DECODING_OPTIONS`` in its place, but for those left out."""
    names = [name for name in DECODING_OPTIONS if name not in left_out]

    def wrap(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def run(**values: Any) -> None:
            given = {name: values.pop(name) for name in names}
            command(**values, decoding=given_options(**given))

        parameters = list(signature(command, eval_str=True).parameters.values())
        place = [parameter.name for parameter in parameters].index("decoding")
        parameters[place : place + 1] = [
            Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=DECODING_OPTIONS[name])
            for name in names
        ]
        run.__signature__ = Signature(  # type: ignore[attr-defined]
            [parameter.replace(kind=Parameter.KEYWORD_ONLY) for parameter in parameters]
        )
        return run

    return wrap


def given_options(**options: Any) -> dict[str, Any]:
    """The options that were given; those of one strategy ask for it where none is named.

    Raises:
        ParameterError: one is of another strategy.
    """
    from vhcr.generation.strategy import implied_strategy, refuse_unused

    given = {name: value for name, value in options.items() if value is not None}
    strategy = given.get("strategy") or implied_strategy(given)
    if strategy is not None:
        refuse_unused(given, strategy)
        given["strategy"] = strategy
    return given


def generation_section(corpus: str) -> dict[str, Any]:
    """How text of ``corpus`` is generated, as params.yaml says; empty where that does not know it."""
    from vhcr.params import Params

    if not Path("params.yaml").is_file():
        return {}
    params = Params.load()
    return params.corpus(corpus).generation.model_dump() if corpus in params.corpora else {}


def generation_params(info: Mapping[str, Any], changes: dict[str, Any]) -> GenerationParams:
    """Those of the run's corpus in params.yaml, else those it was exported with, else ``DEFAULTS``."""
    from vhcr.params import GenerationParams, parse

    values = generation_section(str(info.get("corpus"))) or {**DEFAULTS, **info.get("generation", {})}
    return parse(GenerationParams, {**values, **changes}, where="generation", origin="command line")


def responder(
    run: str, changes: dict[str, Any], latent_scale: float, seed: int, checkpoint: str, device: str
) -> tuple[Responder, Vocabulary]:
    """A trained run, ready to speak."""
    from vhcr.generation.respond import Responder
    from vhcr.models import Noise
    from vhcr.stages.resolve import resolve_run
    from vhcr.training.device import choose_device
    from vhcr.training.run import TrainedRun

    trained = TrainedRun.load(resolve_run(run), checkpoint, str(choose_device(device)))
    params = generation_params(trained.info, changes)
    return Responder(trained.model, params, Noise(seed), latent_scale), trained.vocabulary
