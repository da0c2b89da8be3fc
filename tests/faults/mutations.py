"""A file between two stages is changed, then a stage that reads it is run.

It refuses, with the file's name, or makes what it would have made: nothing else may come out.
"""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults import forked
from tests.faults.outcome import Case, judge
from tests.faults.small import STAGES, Small, copy, differing, draw_stage, files

Draw = random.Random

# Of any file


def flip_bit(data: bytes, draw: Draw) -> bytes:
    place = draw.randrange(len(data) * 8)
    changed = bytearray(data)
    changed[place // 8] ^= 1 << place % 8
    return bytes(changed)


def invert_byte(data: bytes, draw: Draw) -> bytes:
    place = draw.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 255]) + data[place + 1 :]


def truncate(data: bytes, draw: Draw) -> bytes:
    return data[: draw.randrange(len(data))]


def block_of_zeros(data: bytes, draw: Draw) -> bytes:
    start = draw.randrange(len(data))
    return data[:start] + bytes(min(512, len(data) - start)) + data[start + 512 :]


def twice(data: bytes, draw: Draw) -> bytes:
    return data + data


def other_bytes(data: bytes, draw: Draw) -> bytes:
    return draw.randbytes(len(data))


BYTES: tuple[Callable[[bytes, Draw], bytes], ...] = (
    flip_bit, invert_byte, invert_byte, truncate, block_of_zeros, twice, other_bytes,
)  # fmt: skip
WHOLE = (b"", b"null", b"[]", b"5", b'"text"', b"{}", b"{", b"\xff\xfe\0", b"[" * 100_000, b'{"a":' * 100_000)

# Of JSON: one value becomes another, or its key goes


WRONG = (None, True, False, "abc", "false", -5, 1.5, 10**30, [], {}, [None], "\ud800", "NaN", "Infinity")


def change_json(path: Path, draw: Draw) -> str:
    document = json.loads(path.read_text(encoding="utf-8"))
    places = list(_places(document))
    if not places:
        return ""
    parent, key = draw.choice(places)
    before = parent[key]
    if draw.random() < 0.25:
        del parent[key]
        what = f"without {key}"
    else:
        parent[key] = draw.choice(WRONG)
        what = f"{key}: {before!r:.30} became {parent[key]!r}"
        if parent[key] == before and type(parent[key]) is type(before):
            return ""
    text = json.dumps(document, indent=2).replace('"NaN"', "NaN").replace('"Infinity"', "Infinity")
    path.write_text(text, encoding="utf-8")
    return what


def _places(value: Any) -> Any:
    entries = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, inner in list(entries):
        yield value, key
        yield from _places(inner)


# Of Parquet: whole rows and columns, written anew, so that no checksum of a page tells


def change_table(path: Path, draw: Draw) -> str:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(path, partitioning=None)
    rows = list(range(table.num_rows))
    if not rows:
        return ""
    row, other = draw.choice(rows), draw.choice(rows)
    column = draw.randrange(table.num_columns)
    name = table.schema.names[column]

    def nulled() -> Any:
        values = table.column(column).to_pylist()
        values[row] = None
        return table.set_column(column, name, pa.array(values, table.schema.field(column).type))

    others = [each for each in rows if each != row]
    renamed = ["x" if each == name else each for each in table.schema.names]
    changes: dict[str, Callable[[], Any]] = {
        f"row {row} doubled": lambda: table.take([*rows, row]),
        f"row {row} dropped": lambda: table.take(others),
        "rows reversed": lambda: table.take(rows[::-1]),
        f"row {row} in the place of {other}": lambda: table.take([row if r == other else r for r in rows]),
        "no rows": lambda: table.slice(0, 0),
        f"null for {name} in row {row}": nulled,
        f"column {name} twice": lambda: table.append_column(name, table.column(column)),
        f"without column {name}": lambda: table.remove_column(column),
        f"column {name} named x": lambda: table.rename_columns(renamed),
    }
    what = draw.choice(list(changes))
    pq.write_table(changes[what](), path)
    return what


# Of safetensors: a header that says something else, a number that is none


def change_tensors(path: Path, draw: Draw) -> str:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header, body = data[8 : 8 + length], bytearray(data[8 + length :])
    if draw.random() < 0.5:
        place = draw.randrange(len(body) // 4) * 4
        body[place : place + 4] = struct.pack("<f", draw.choice((float("nan"), float("inf"), 1e30)))
        what = f"a number at byte {place}"
    else:
        header = header.replace(b'"F32"', b'"I32"', 1)
        what = "F32 became I32"
    path.write_bytes(data[:8] + header + bytes(body))
    return what


BY_SUFFIX = {".json": change_json, ".parquet": change_table, ".safetensors": change_tensors}


def mutate(path: Path, draw: Draw) -> str:
    """Change a file in place; what was done to it, or nothing where that changed nothing."""
    before = path.read_bytes()
    kind = draw.random()
    if kind < 0.4 and path.suffix in BY_SUFFIX:
        what = BY_SUFFIX[path.suffix](path, draw)
    elif kind < 0.5:
        whole = draw.choice(WHOLE)
        path.write_bytes(whole)
        what = f"whole file {whole[:10]!r} ({len(whole)} bytes)"
    elif kind < 0.55:
        path.unlink()
        return "file removed"
    else:
        change = draw.choice(BYTES)
        path.write_bytes(change(before, draw) if before else b"x")
        what = change.__name__
    return what if path.read_bytes() != before else ""


def case(small: Small, root: Path, draw: Draw) -> Case:
    """One file, one change, one stage that reads it."""
    stage = draw_stage(small, draw, [name for name, one in STAGES.items() if one.reads])
    one = STAGES[stage]
    folder = copy(small, root / "case")
    chosen = draw.choice([path for path in files(folder) if path.startswith(one.reads)])
    what = ""
    changed = root / "changed"

    def change() -> None:  # in a process of its own, since Arrow's threads do not outlive a fork
        nonlocal what
        changed.write_text(mutate(folder / chosen, draw), encoding="utf-8", errors="replace")

    made = forked.run(folder, change)
    assert made.status == 0, made.output
    what = changed.read_text(encoding="utf-8")
    ended = forked.run(folder, forked.stage(*one.command.split()))
    wrong = [path for path in differing(small, folder) if path.split(" ")[0] != chosen]
    if ended.status == 2:  # a refusal leaves what was there, or nothing
        wrong = [path for path in wrong if path.endswith("(left behind)") and "/validation/" not in path]
    named = Path(chosen).parent if stage == "tokenise" else Path(chosen).name
    return judge(f"{stage} after {chosen}: {what}", ended, wrong, named=str(named), changed=bool(what))
