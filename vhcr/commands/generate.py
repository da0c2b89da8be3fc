"""``vhcr generate`` and ``vhcr interpolate``: text from contexts, and from points of z_conv."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vhcr.commands.options import (
    SEPARATOR,
    AsJson,
    Checkpoint,
    Decoding,
    Device,
    LatentScale,
    Opening,
    Run,
    Seed,
    Turns,
    decodes,
    responder,
)
from vhcr.errors import ParameterError

if TYPE_CHECKING:
    from vhcr.batch import Ints
    from vhcr.generation.respond import Continuation
    from vhcr.tokenisation.vocabulary import Vocabulary


@decodes()
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
    *,
    decoding: Decoding,
    latent_scale: LatentScale = 1.0,
    seed: Seed = 0,
    checkpoint: Checkpoint = "best",
    device: Device = "cpu",
) -> None:
    """Respond to contexts, or generate whole conversations.

    vhcr generate toy/vhcr-ud/0 "hello | hi , how can i help ?" --turns 3 --samples 2 --strategy sample
    """
    from vhcr.generation import control

    if conversations is not None and (contexts or file is not None):
        raise ParameterError("--conversations generates without contexts, but there are some")
    if opening is not None and conversations is None:
        raise ParameterError("--opening begins whole conversations: give --conversations too")
    speaker, vocabulary = responder(run, decoding, latent_scale, seed, checkpoint, device)
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


@decodes("z_conv_from")
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
    *,
    decoding: Decoding,
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

    speaker, vocabulary = responder(run, decoding, latent_scale, seed, checkpoint, device)
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
