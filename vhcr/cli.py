"""The commands a person types. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import contextlib
import json
import logging
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vhcr.errors import DataError, ParameterError, VhcrError
from vhcr.generation.limits import MAX_LATENT_SCALE, MAX_SEED
from vhcr.human_evaluation.commands import app as human_evaluation

if TYPE_CHECKING:
    from vhcr.batch import Ints
    from vhcr.explore.atlas import Atlas
    from vhcr.generation.chat import Chat, Line
    from vhcr.generation.respond import Continuation, Responder
    from vhcr.inspection import Inspection
    from vhcr.params import GenerationParams
    from vhcr.tokenisation.vocabulary import Vocabulary

app = typer.Typer(
    name="vhcr",
    help="Conversations from trained models (HRED, VHRED, VHCR), and the numbers behind them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.add_typer(human_evaluation, name="human-eval")

MAX_TURNS_SHOWN, MAX_CHARACTERS_SHOWN = 6, 120
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
Strategy = Annotated[
    Literal["greedy", "beam", "sample"] | None,
    typer.Option(help="Decoding strategy.", rich_help_panel=DECODING),
]
Temperature = Annotated[float | None, typer.Option(help="Of sampling; implies it.", rich_help_panel=DECODING)]
TopK = Annotated[
    int | None,
    typer.Option(help="Sample among the k likeliest words; 0: all.", rich_help_panel=DECODING),
]
TopP = Annotated[float | None, typer.Option(help="Sample within this mass.", rich_help_panel=DECODING)]
BeamSize = Annotated[
    int | None, typer.Option(help="Hypotheses kept by beam search; implies it.", rich_help_panel=DECODING)
]
LengthPenalty = Annotated[
    float | None,
    typer.Option(help="A beam's score is log p / words ** penalty; implies beam.", rich_help_panel=DECODING),
]
MaxWords = Annotated[
    int | None,
    typer.Option(help="Longest utterance, its end counted.", rich_help_panel=DECODING),
]
UnknownWords = Annotated[
    Literal["allow", "never"] | None,
    typer.Option(help="Whether <unk> may be said.", rich_help_panel=DECODING),
]
ZConvFrom = Annotated[
    Literal["posterior", "prior"] | None,
    typer.Option(help="Draw z_conv given the context, or from N(0, I).", rich_help_panel=DECODING),
]
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


@app.command()
def generate(
    run: Run,
    contexts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CONTEXT]...",
            help=f"What was said so far, turns separated by '{SEPARATOR}'; - or none: standard input.",
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(help="Contexts as JSON Lines: lists of utterances, or conversations with `utterances`."),
    ] = None,
    turns: Turns = 1,
    samples: Annotated[int, typer.Option(min=1, help="Responses to each context.")] = 1,
    conversations: Annotated[
        int | None,
        typer.Option(
            min=1, help="No context: so many draws of z_conv, a whole conversation from each sample."
        ),
    ] = None,
    opening: Opening = None,
    as_json: AsJson = False,
    strategy: Strategy = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    beam_size: BeamSize = None,
    length_penalty: LengthPenalty = None,
    max_words: MaxWords = None,
    unknown_words: UnknownWords = None,
    z_conv_from: ZConvFrom = None,
    latent_scale: LatentScale = 1.0,
    seed: Seed = 0,
    checkpoint: Checkpoint = "best",
    device: Device = "cpu",
) -> None:
    """Respond to contexts, or generate whole conversations.

    vhcr generate toy/vhcr-ud/0 "hello | hi , how can i help ?" --turns 3 --samples 2 --strategy sample
    """
    from vhcr.generation import control

    changes = _given(
        strategy=strategy,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        beam_size=beam_size,
        length_penalty=length_penalty,
        max_words=max_words,
        unknown_words=unknown_words,
        z_conv_from=z_conv_from,
    )
    if conversations is not None and (contexts or file is not None):
        raise ParameterError("--conversations generates without contexts, but there are some")
    if opening is not None and conversations is None:
        raise ParameterError("--opening begins whole conversations: give --conversations too")
    speaker, vocabulary = _responder(run, changes, latent_scale, seed, checkpoint, device)
    longest = speaker.params.max_words
    if conversations is not None:
        first = None if opening is None else _to_ids([opening], vocabulary, longest)[0].tolist()
        made = control.conversations(speaker, conversations, turns, samples=samples, opening=first)
        given = [[] if opening is None else [opening]] * conversations
        _show(given, made, samples, vocabulary, as_json)
        return
    texts = list(_contexts(contexts, file))
    context_ids = [_to_ids(context, vocabulary, longest) for context in texts]
    _show(texts, speaker.respond(context_ids, turns, samples=samples), samples, vocabulary, as_json)


@app.command()
def chat(
    run: Run,
    strategy: Strategy = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    beam_size: BeamSize = None,
    length_penalty: LengthPenalty = None,
    max_words: MaxWords = None,
    unknown_words: UnknownWords = None,
    z_conv_from: ZConvFrom = None,
    latent_scale: LatentScale = 1.0,
    seed: Seed = 0,
    checkpoint: Checkpoint = "best",
    device: Device = "cpu",
) -> None:
    """Talk with a trained model in the terminal; /help lists what else can be typed."""
    from vhcr.generation.chat import Chat

    changes = _given(
        strategy=strategy,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        beam_size=beam_size,
        length_penalty=length_penalty,
        max_words=max_words,
        unknown_words=unknown_words,
        z_conv_from=z_conv_from,
    )
    speaker, vocabulary = _responder(run, changes, latent_scale, seed, checkpoint, device)
    typer.echo(f"{run}: say something, or /help")
    talk(Chat(speaker, vocabulary))


@app.command()
def interpolate(
    run: Run,
    points: Annotated[int, typer.Option(min=2, help="Points on the way, both ends included.")] = 7,
    path: Annotated[
        Literal["linear", "spherical"], typer.Option(help="Straight, or along the sphere.")
    ] = "linear",
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            help=f"A conversation (turns separated by '{SEPARATOR}') whose z_conv it starts from; "
            "default: a draw from the prior.",
        ),
    ] = None,
    end: Annotated[str | None, typer.Option("--to", help="And one that it leads to.")] = None,
    turns: Turns = 3,
    opening: Opening = None,
    as_json: AsJson = False,
    strategy: Strategy = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    beam_size: BeamSize = None,
    length_penalty: LengthPenalty = None,
    max_words: MaxWords = None,
    unknown_words: UnknownWords = None,
    latent_scale: LatentScale = 1.0,
    seed: Seed = 0,
    checkpoint: Checkpoint = "best",
    device: Device = "cpu",
) -> None:
    """Conversations from points between two z_conv (Table 6).

    The noise of z_utt and of words is the same at all points: what differs comes from z_conv alone.

    vhcr interpolate toy/vhcr-ud/0 --points 5 --path spherical
    """
    from vhcr.generation import control

    changes = _given(
        strategy=strategy,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        beam_size=beam_size,
        length_penalty=length_penalty,
        max_words=max_words,
        unknown_words=unknown_words,
    )
    speaker, vocabulary = _responder(run, changes, latent_scale, seed, checkpoint, device)
    longest = speaker.params.max_words
    drawn = control.prior_z_conv(speaker, 2)
    ends = []
    for place, text in enumerate((start, end)):
        if text is None:
            ends.append(drawn[place])
        else:
            told = _to_ids(_turns(text), vocabulary, longest)
            ends.append(control.posterior_means(speaker, [told])[0])
    first = None if opening is None else _to_ids([opening], vocabulary, longest)[0].tolist()
    z_conv = control.interpolate(ends[0], ends[1], points, path)
    made = control.from_z_conv(speaker, z_conv, turns, same_noise=True, opening=first)
    _show([[] if opening is None else [opening]] * points, made, 1, vocabulary, as_json)
    if all(said == made.token_ids[0] for said in made.token_ids):
        typer.echo(
            f"all {points} points gave the same conversation: on this path z_conv changes nothing of what is "
            "said",
            err=True,
        )


Where = Annotated[
    Path, typer.Argument(metavar="PATH", help="A file, a folder, or either packed: zip, tar.gz, gz, zst.")
]
Reader = Annotated[
    str | None, typer.Option(help="Its format, where a look is not enough (docs/corpora.md lists them).")
]
Gap = Annotated[
    float | None,
    typer.Option("--session-gap", help="Minutes of silence after which a chat is another conversation."),
]


@app.command()
def inspect(path: Where, reader: Reader = None, session_gap: Gap = None) -> None:
    """Look at conversations: their format, three of them, what would be lost, and the settings to use.

    vhcr inspect chats.csv
    """
    _looked_at(path, reader, session_gap)
    typer.echo(f"\nvhcr add NAME {shlex.quote(str(path))} writes these settings into params.yaml")


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="What the corpus is to be called.")],
    path: Where,
    reader: Reader = None,
    session_gap: Gap = None,
    replace: Annotated[bool, typer.Option("--replace", help="Write it anew where it is there.")] = False,
    activate: Annotated[
        bool, typer.Option(help="Make it what `dvc repro` runs, with systems that fit its size.")
    ] = True,
) -> None:
    """Make conversations a corpus of params.yaml, read and sized by a look at them.

    vhcr add chats chats.csv && dvc repro
    """
    from vhcr.inspection import add as write
    from vhcr.inspection import refuse_name
    from vhcr.layout import report as place
    from vhcr.preset import SYSTEMS

    refuse_name(Path("params.yaml"), name, replace=replace)
    found = _looked_at(path, reader, session_gap)
    write(Path("params.yaml"), name, found.section, replace=replace, activate=activate)
    typer.echo(f"\nwritten to params.yaml as corpora.{name}" + "; it is active" * activate)
    typer.echo(f"next: dvc repro; the report is {place(name) / 'index.html'}")
    typer.echo(f"how long that takes: dvc repro tokenise@{name} && vhcr estimate {name} {SYSTEMS[-1]}")


def _looked_at(path: Path, reader: str | None, session_gap: float | None) -> Inspection:
    """What a look at ``path`` tells, printed."""
    import yaml

    from vhcr.inspection import inspect as look
    from vhcr.params import Params

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    overrides = {"reader": reader, "session_gap_minutes": session_gap}
    found = look(path, Params.load(), {key: value for key, value in overrides.items() if value is not None})
    typer.echo(f"{path}: {found.description}\n")
    for conversation in found.examples:
        typer.echo(f"{conversation.id} ({len(conversation.utterances)} turns)")
        for utterance in conversation.utterances[:MAX_TURNS_SHOWN]:
            said = " ".join(utterance.text.split())
            who = f"{utterance.speaker}: " if utterance.speaker else "- "
            typer.echo(
                f"  {who}{said[:MAX_CHARACTERS_SHOWN]}{'...' if len(said) > MAX_CHARACTERS_SHOWN else ''}"
            )
        if (more := len(conversation.utterances) - MAX_TURNS_SHOWN) > 0:
            typer.echo(f"  ({more} more)")
    typer.echo("")
    if found.problem is not None:
        raise DataError(f"{path}: {found.problem}")
    for line in found.lines:
        typer.echo(f"{'! ' if line.level > logging.INFO else '  '}{line.text}")
    typer.echo(
        "\n" + yaml.safe_dump(found.section, sort_keys=False, allow_unicode=True, default_flow_style=None)
    )
    return found


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


@app.command()
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
    page = create_app(atlas, _generation_params(atlas.run.info, {}), token, others)
    typer.echo(address(listener.getsockname()[1], token))
    typer.echo("Open it in a browser of this machine. Ctrl-C ends.", err=True)
    loopback.serve(page, listener)


@app.command("export-latents")
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


@app.command("export-hub")
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
    spoken = _generation_section(str(trained.info.get("corpus")))
    for path in export(trained, folder, metrics, spoken):
        typer.echo(path)


@app.command()
def runs() -> None:
    """List the trained runs in this project, and where MLflow compares them."""
    from vhcr.provenance import read_run
    from vhcr.stages.resolve import trained_runs

    found = trained_runs()
    if not found:
        typer.echo("No trained run lies in data/trained/ yet: make run")
        return
    typer.echo(f"{'run':40} {'bound':>8} {'KL':>8}  {'made':10}  MLflow")
    known = _in_mlflow(found.values())
    for name, folder in found.items():
        try:
            run_id = read_run(folder).get("mlflow_run_id")
            said = f"{_numbers(folder)}  {known.get(run_id, run_id) if run_id else 'not in MLflow'}"
        except DataError as error:
            said = str(error)  # the others are listed all the same
        typer.echo(f"{name:40} {said}")
    for line in _links(sorted({name.split("/")[0] for name in found})):
        typer.echo(line)


def _numbers(folder: Path) -> str:
    """Of a trained run: its best validation bound and the KL there, nats a word, and when it was made."""
    from vhcr.files import read_object

    made = datetime.fromtimestamp((folder / "run.json").stat().st_mtime, UTC).date()
    if not (folder / "metrics.json").exists():
        return f"{'-':>8} {'-':>8}  {made}"
    best = read_object(folder / "metrics.json").get("best_validation") or {}
    cells = [best.get(key) for key in ("nll_per_word", "kl_per_word")]
    bound, kl = (f"{cell:.3f}" if isinstance(cell, float | int) else "-" for cell in cells)
    return f"{bound:>8} {kl:>8}  {made}"


def _in_mlflow(folders: Iterable[Path]) -> dict[str, str]:
    """What to say of the MLflow ids that runs were recorded under, of those that MLflow does not have.

    A colleague's copy has the ids, not the runs; an imported run is known by the digests of its files.
    """
    from vhcr import recording
    from vhcr.provenance import read_run
    from vhcr.recording.files import imported_as

    if not recording.available() or not recording.store_exists():
        return {}
    said: dict[str, str] = {}
    # Where it does not answer, that is said after the list.
    with contextlib.suppress(recording.RecordingError), recording.plainly():
        connected = recording.client()
        for folder in folders:
            with contextlib.suppress(DataError):
                run_id = read_run(folder).get("mlflow_run_id")
                if run_id and recording.stored_run(connected, run_id) is None:
                    again = imported_as(connected, folder)
                    said[run_id] = again or f"not here (vhcr import-run {folder})"
    return said


def _links(corpora: Sequence[str]) -> Iterator[str]:
    """Where MLflow shows the runs of each corpus side by side."""
    from vhcr import recording

    if not corpora or not recording.available() or not recording.store_exists():
        return
    with recording.plainly():
        connected = recording.client()
        for corpus in corpora:
            experiment = connected.get_experiment_by_name(recording.experiment_name(corpus))
            if experiment is not None:
                recording.save_views(connected, experiment.experiment_id)
                yield f"\n{corpus} in MLflow (make mlflow), side by side:"
                yield f"  {recording.view_url(experiment.experiment_id, recording.TABLE)}"
                yield f"  {recording.view_url(experiment.experiment_id, recording.CURVES)}"


@app.command()
def table() -> None:
    """Print the table of every report, and where the reports lie."""
    from vhcr.summary import summary

    typer.echo(summary(Path("reports")))


@app.command()
def publish(corpus: Annotated[str, typer.Argument(help="A corpus of params.yaml.")]) -> None:
    """Add a corpus's evaluated runs to results/<corpus>/, which git keeps; prints the files written."""
    from vhcr.params import Params
    from vhcr.stages.report import publish as write

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for path in write(corpus, Params.load()):
        typer.echo(path)


@app.command()
def render(folder: Annotated[Path, typer.Argument(help="Published results: results/<corpus>.")]) -> None:
    """Print the page (README.md) of published results, from their files alone."""
    from vhcr.report.markdown import markdown

    typer.echo(markdown(folder), nl=False)


@app.command()
def report(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME...",
            help="A corpus of params.yaml, or published results (results/<corpus>); with --runs, runs.",
        ),
    ],
    runs: Annotated[
        bool,
        typer.Option(
            "--runs",
            help="NAMEs are runs: MLflow run ids, corpus/system/seed, models:/<name>@<alias>, or folders "
            "(with all runs below).",
        ),
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the page.  [default: reports/<corpus>, or reports/chosen]")
    ] = None,
    studies: Annotated[
        list[Path] | None,
        typer.Option(
            "--study", help="With --runs: a human evaluation of these runs, for Table 4; may be repeated."
        ),
    ] = None,
) -> None:
    """Make a report: of a corpus, of published results, or over any chosen runs.

    vhcr report --runs toy/hred/0 toy/vhcr-ud/0 3f2a90c47d1e4b7f9a60c1d2e3f4a5b6
    """
    from vhcr.layout import report as place
    from vhcr.params import Params
    from vhcr.stages import report as stage

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    params = Params.load() if Path("params.yaml").is_file() else None
    if runs:
        votes = None
        if studies:
            from vhcr.human_evaluation.table import of_runs

            votes = partial(of_runs, studies)
        typer.echo(stage.compare(names, out or place("chosen"), params, votes))
        return
    if out is not None and len(names) > 1:
        raise ParameterError("--out: takes one page; make the others apart, or all runs on one with --runs")
    if studies:
        raise ParameterError("--study: goes with --runs, since votes are of certain runs")
    for name in names:
        if len(Path(name).parts) > 1:  # no corpus is called so
            folder = out or place(f"published-{Path(name).name}")
            for page in stage.from_published(Path(name), folder, params):
                typer.echo(page)
        elif out is not None:
            raise ParameterError(f"--out: a corpus's report goes to {place(name)}")
        else:
            stage.run(params or Params.load(), corpus=name)
            typer.echo(place(name) / "index.html")


@app.command("create-database", hidden=True)
def create_database() -> None:
    """Make MLflow's database where there is none, so that a server need not."""
    from vhcr.recording import client

    client()


@app.command("import-run")
def import_run(
    folder: Annotated[Path, typer.Argument(help="A trained run: data/trained/<corpus>/<system>/<seed>.")],
    evaluated: Annotated[
        Path | None, typer.Option(help="Its evaluation: data/evaluated/<corpus>/<system>/<seed>.")
    ] = None,
) -> None:
    """Send a run that was recorded as files to MLflow, exactly once; prints its MLflow run id."""
    from vhcr.recording import import_run as send

    typer.echo(send(folder, evaluated))


@app.command()
def register(
    run: Run,
    evaluated: Annotated[
        Path | None, typer.Option(help="Its evaluation, where that does not lie beside it.")
    ] = None,
    champion: Annotated[
        bool, typer.Option("--champion", help="Make it the champion, whatever the comparison says.")
    ] = False,
) -> None:
    """Make an evaluated run a version of vhcr-<corpus> in MLflow's registry, once.

    It becomes the champion where its bound is significantly lower than that of the present one.
    """
    from vhcr.registry import register as enter
    from vhcr.stages.resolve import evaluation_of, fetched_run_id, resolve_run

    folder = resolve_run(run)
    place = evaluated or evaluation_of(folder)
    typer.echo(enter(folder, place, run_id=fetched_run_id(folder), make_champion=champion))


@app.command()
def reproduce(
    run: Run,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Also where code, versions or machine are not as they were.")
    ] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep what was made, even if it is the same.")] = False,
) -> None:
    """Make a recorded run again, from its commit, data, parameters and seed, and compare bit for bit.

    Status 0: it came out the same. 1: it came out different. 2: it cannot be made again here.
    """
    from vhcr.reproduction import Recorded
    from vhcr.reproduction import reproduce as again
    from vhcr.stages.resolve import evaluation_of, resolve_run

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    folder = resolve_run(run)
    try:
        evaluated = evaluation_of(folder)
    except DataError:
        evaluated = None  # trained alone: then the training alone is made again
    outcome = again(Recorded.load(folder, evaluated), anyway=anyway, keep=keep)
    typer.echo(outcome)
    if not outcome.is_same:
        raise typer.Exit(1)


HELP = """\
/new              begin another conversation
/resample         another reply in place of the last: z_conv, z_utt and words drawn afresh
/undo             take back the last reply and what it replied to
/begin            let the model say the first utterance
/temperature X    sample at this temperature; 0 takes the likeliest words
/why              what lies behind the last reply
/show             the conversation so far
/save FILE        append the conversation to a JSON Lines file
/help             this
/quit             leave (so does the end of input)"""


def talk(chat: Chat) -> None:
    """Read lines until /quit or the end of input; a mistake is said and costs nothing."""
    if sys.stdin.isatty():
        with contextlib.suppress(ImportError):  # not on every system
            import readline  # noqa: F401  # line editing and history for input()
    while True:
        try:
            line = _typed()
            if line == "/quit":
                return
            _obey(chat, line)
        except (EOFError, KeyboardInterrupt):
            typer.echo()
            return
        except VhcrError as error:
            typer.echo(f"  {error}")


def _typed() -> str:
    """One line after the prompt; from a pipe it is decoded here: one that is not UTF-8 costs no other."""
    try:
        if sys.stdin.isatty():
            return input("you> ").strip()
        typer.echo("you> ", nl=False)
        if not (line := sys.stdin.buffer.readline()):
            raise EOFError
        return line.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise ParameterError("that was not UTF-8") from None


def _obey(chat: Chat, line: str) -> None:
    """One line of the chat: a command, or something said."""
    command, _, rest = line.partition(" ")
    rest = rest.strip()
    if not line:
        return
    if not line.startswith("/"):
        reply = chat.say(line)
        for remark in chat.lines[-2].remarks:
            typer.echo(f"  {remark}")
        _reply(reply)
    elif command == "/new":
        chat.new()
        typer.echo("  a new conversation")
    elif command == "/resample":
        _reply(chat.resample())
    elif command == "/undo":
        for taken in chat.undo():
            typer.echo(f"  taken back: {taken.speaker}> {taken.text}")
    elif command == "/begin":
        if chat.lines:
            raise ParameterError("this conversation has begun: /new first")
        _reply(chat.reply())
    elif command == "/temperature":
        _set_temperature(chat, rest)
    elif command == "/why":
        for name, value in chat.why().items():
            typer.echo(f"  {name:14} {value:.4g}")
    elif command == "/show":
        for said in chat.lines:
            typer.echo(f"  {said.speaker}> {said.text}")
    elif command == "/save":
        _save(chat, rest)
    elif command == "/help":
        typer.echo(HELP)
    else:
        raise ParameterError(f"{command} is no command; /help lists them")


def _reply(line: Line) -> None:
    typer.echo(f"{line.speaker}> {line.text}")


def _set_temperature(chat: Chat, text: str) -> None:
    try:
        value = float(text)
    except ValueError:
        raise ParameterError(f"/temperature needs a number, not {text!r}") from None
    if value == 0.0:
        chat.set_params(strategy="greedy")
        typer.echo("  the likeliest words")
    else:
        chat.set_params(strategy="sample", temperature=value)
        typer.echo(f"  sampling at temperature {value:g}")


def _save(chat: Chat, name: str) -> None:
    if not name:
        raise ParameterError("/save needs the name of a file")
    if not chat.lines:
        raise ParameterError("nothing was said that could be saved")
    try:
        with Path(name).open("a", encoding="utf-8") as file:
            file.write(json.dumps(chat.as_dict(), ensure_ascii=False) + "\n")
    except OSError as error:
        raise ParameterError(f"{name}: cannot be written: {error.strerror}") from None
    typer.echo(f"  saved to {name}")


def _given(**options: Any) -> dict[str, Any]:
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


def _generation_section(corpus: str) -> dict[str, Any]:
    """How text of ``corpus`` is generated, as params.yaml says; empty where that does not know it."""
    from vhcr.params import Params

    if not Path("params.yaml").is_file():
        return {}
    params = Params.load()
    return params.corpus(corpus).generation.model_dump() if corpus in params.corpora else {}


def _generation_params(info: Mapping[str, Any], changes: dict[str, Any]) -> GenerationParams:
    """Those of the run's corpus in params.yaml, else those it was exported with, else ``DEFAULTS``."""
    from vhcr.params import GenerationParams, parse

    values = _generation_section(str(info.get("corpus"))) or {**DEFAULTS, **info.get("generation", {})}
    return parse(GenerationParams, {**values, **changes}, where="generation", origin="command line")


def _responder(
    run: str, changes: dict[str, Any], latent_scale: float, seed: int, checkpoint: str, device: str
) -> tuple[Responder, Vocabulary]:
    """A trained run, ready to speak."""
    from vhcr.generation.respond import Responder
    from vhcr.models import Noise
    from vhcr.stages.resolve import resolve_run
    from vhcr.training.device import choose_device
    from vhcr.training.run import TrainedRun

    trained = TrainedRun.load(resolve_run(run), checkpoint, str(choose_device(device)))
    params = _generation_params(trained.info, changes)
    return Responder(trained.model, params, Noise(seed), latent_scale), trained.vocabulary


def _to_ids(texts: Sequence[str], vocabulary: Vocabulary, max_words: int) -> list[Ints]:
    """The token ids of each text; standard error says of which a model hears nothing."""
    from vhcr.generation.text import remarks, to_ids_all

    context_ids = to_ids_all(texts, vocabulary, max_words)
    for remark in remarks(texts, context_ids):
        typer.echo(remark, err=True)
    return context_ids


def _turns(text: str) -> list[str]:
    """The turns of a context written on one line."""
    return [turn.strip() for turn in text.split(SEPARATOR)]


def _contexts(arguments: Sequence[str] | None, file: Path | None) -> Iterator[list[str]]:
    """Contexts from arguments, from a JSON Lines file, or from standard input."""
    if file is not None:
        if arguments:
            raise ParameterError("give contexts as arguments or as --file, not both")
        yield from _read_contexts(file)
    elif arguments and arguments != ["-"]:
        yield from map(_turns, arguments)
    else:
        if sys.stdin.isatty():
            typer.echo(f"One context a line, turns separated by '{SEPARATOR}'; end with Ctrl-D.", err=True)
        yield from (_turns(line) for line, _ in _lines(sys.stdin.buffer, "standard input"))


def _lines(raw: Iterable[bytes], origin: str) -> Iterator[tuple[str, str]]:
    """Lines of UTF-8 with something in them, and where each stands; a byte order mark may come first.

    They come as bytes, cut at line feeds: texts hold other characters that Python calls line breaks.
    """
    for number, line in enumerate(raw, start=1):
        where = f"{origin}:{number}"
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise ParameterError(f"{where}: not UTF-8") from None
        if text.strip():
            yield text, where


def _read_contexts(file: Path) -> Iterator[list[str]]:
    """Contexts from JSON Lines: a list of texts, or an object with `context` or `utterances`."""
    from vhcr.corpora.records import text_of

    try:
        raw = file.read_bytes().split(b"\n")
    except OSError as error:
        raise ParameterError(f"{file}: cannot be read: {error.strerror}") from None
    for line, where in _lines(raw, str(file)):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ParameterError(f"{where}: not valid JSON: {error}") from None
        if isinstance(value, dict):
            value = value.get("context", value.get("utterances"))
        turns = value if isinstance(value, list) else []
        texts = [turn.get("text") if isinstance(turn, dict) else turn for turn in turns]
        spoken = [text_of(text, "text") for text in texts if isinstance(text, str)]
        if not spoken or len(spoken) < len(texts):
            raise ParameterError(f"{where}: expected a list of utterances, or `utterances` with one")
        yield spoken


def _show(
    contexts: Iterable[Sequence[str]], made: Continuation, samples: int, vocabulary: Vocabulary, as_json: bool
) -> None:
    """Contexts with what was generated after each."""
    from vhcr.generation.text import to_text

    said = [[to_text(ids, vocabulary) for ids in turns] for turns in made.token_ids]
    log_probs = made.log_probs.tolist() if made.log_probs is not None else []
    for place, context in enumerate(contexts):
        mine = range(place * samples, (place + 1) * samples)
        if as_json:
            responses = [{"turns": said[i], "log_probs": log_probs[i]} for i in mine]
            typer.echo(json.dumps({"context": list(context), "responses": responses}, ensure_ascii=False))
            continue
        if place:
            typer.echo()
        for turn in context:
            typer.echo(f"  {turn}")
        for number, i in enumerate(mine, start=1):
            if samples > 1:
                typer.echo(f"({number})")
            for turn in said[i]:
                typer.echo(f"> {turn}")


@app.command()
def estimate(
    corpus: Annotated[str, typer.Argument(help="A corpus of params.yaml that is tokenised.")],
    system: Annotated[str, typer.Argument(help="A system of params.yaml.")],
    seed: Seed = 0,
    params: Annotated[Path, typer.Option(help="Parameter file.")] = Path("params.yaml"),
) -> None:
    """What a training would take on this machine: steps, time, memory; from a few timed batches."""
    from vhcr.params import Params
    from vhcr.stages.train import foresee

    typer.echo(f"{corpus} {system}: {foresee(Params.load(params), corpus, system, seed)}")


def main(arguments: list[str] | None = None) -> None:
    """Run a command; a VhcrError becomes its message alone and exit status 2."""
    try:
        app(args=arguments, prog_name="vhcr")
    except VhcrError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
