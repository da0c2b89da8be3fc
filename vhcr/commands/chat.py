"""``vhcr chat``: a conversation with a run, line by line."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from vhcr.commands.options import (
    Checkpoint,
    Decoding,
    Device,
    LatentScale,
    Run,
    Seed,
    decodes,
    responder,
)
from vhcr.errors import ParameterError, VhcrError

if TYPE_CHECKING:
    from vhcr.generation.chat import Chat, Line


@decodes()
def chat(
    run: Run,
    *,
    decoding: Decoding,
    latent_scale: LatentScale = 1.0,
    seed: Seed = 0,
    checkpoint: Checkpoint = "best",
    device: Device = "cpu",
) -> None:
    """Talk with a trained model in the terminal; /help lists what else can be typed."""
    from vhcr.generation.chat import Chat

    speaker, vocabulary = responder(run, decoding, latent_scale, seed, checkpoint, device)
    typer.echo(f"{run}: say something, or /help")
    talk(Chat(speaker, vocabulary))


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
