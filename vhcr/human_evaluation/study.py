"""A study in one SQLite file: the pairs, who may vote, which pair each rater has, and the votes.

Invariants, kept by keys of the database and by transactions that exclude each other, so that several
servers and imports may share a file:

- a rater has at most one vote on an item;
- votes given on the page never exceed ``votes_per_item``: whoever opens an item reserves one of its votes
  for ``RESERVED_SECONDS``, and an item that has all its votes accepts no further one;
- a rater has at most one item open, so that a reload or a second tab shows the same one.

Which response is on the left is drawn for each item, half of them each way, and changes from rater to
rater of an item: a preference for one side then cancels within items, instead of looking like agreement
between raters. Item ids, sides, the order in which items are given, and raters' links come from a secret
that was drawn when the study was made: nobody who knows the seed, the source and the responses' files can
compute them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import hmac
import json
import secrets
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from vhcr.errors import StorageError, StudyError
from vhcr.files import atomic
from vhcr.human_evaluation.pairs import Pair

Choice = Literal["left", "right", "tie"]
Outcome = Literal["win", "loss", "tie"]  # of the system, against its opponent
CHOICES: tuple[Choice, ...] = get_args(Choice)
PAGE = "page"  # source of votes given on the page

RESERVED_SECONDS = 30 * 60
BUSY_SECONDS = 30  # how long a transaction waits for others
APPLICATION_ID = 0x76686372  # "vhcr": tells a study from other SQLite files
FORMAT = 1
NAME_LENGTH = 80

SCHEMA = """
CREATE TABLE study (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 0),
    settings TEXT NOT NULL,
    secret TEXT NOT NULL
) STRICT;
CREATE TABLE items (
    item TEXT PRIMARY KEY,
    position INTEGER NOT NULL UNIQUE,
    conversation_id TEXT NOT NULL,
    context TEXT NOT NULL,
    system_response TEXT NOT NULL,
    opponent_response TEXT NOT NULL,
    system_is_left INTEGER NOT NULL CHECK (system_is_left IN (0, 1))
) STRICT;
CREATE TABLE raters (
    rater TEXT PRIMARY KEY,
    source TEXT NOT NULL
) STRICT;
CREATE TABLE assignments (
    item TEXT NOT NULL REFERENCES items,
    rater TEXT NOT NULL REFERENCES raters,
    system_is_left INTEGER NOT NULL CHECK (system_is_left IN (0, 1)),
    reserved_until REAL NOT NULL,
    PRIMARY KEY (item, rater)
) STRICT;
CREATE TABLE votes (
    item TEXT NOT NULL REFERENCES items,
    rater TEXT NOT NULL REFERENCES raters,
    outcome TEXT NOT NULL CHECK (outcome IN ('win', 'loss', 'tie')),
    system_is_left INTEGER NOT NULL CHECK (system_is_left IN (0, 1)),
    revision INTEGER NOT NULL CHECK (revision >= 1),
    first_voted_at REAL NOT NULL,
    voted_at REAL NOT NULL,
    source_id TEXT UNIQUE,
    PRIMARY KEY (item, rater)
) STRICT;
CREATE TABLE replaced_votes (
    item TEXT NOT NULL,
    rater TEXT NOT NULL,
    revision INTEGER NOT NULL,
    outcome TEXT NOT NULL CHECK (outcome IN ('win', 'loss', 'tie')),
    voted_at REAL NOT NULL,
    PRIMARY KEY (item, rater, revision),
    FOREIGN KEY (item, rater) REFERENCES votes
) STRICT;
"""


@dataclass(frozen=True)
class Settings:
    """What a study compares and how; written once, when it is made."""

    corpus: str
    paper_corpus: str | None  # the paper's corpus that this is, if either
    system: str
    system_seed: int
    opponent: str
    opponent_seed: int
    paper_systems: Mapping[str, str]  # of these two, those that are the paper's, with its name for them
    num_turns: int  # of each response
    votes_per_item: int
    seed: int  # of the draw of contexts
    num_contexts: int  # test contexts there were to draw from
    num_identical: int  # of those, where both responses agree word for word
    num_repeated: int  # of those, same in context and both responses as another
    include_identical: bool
    provenance: Mapping[str, Any]


class Item(NamedTuple):
    """A pair under its opaque id, with the side that exports show the system on."""

    item: str
    conversation_id: str
    context: tuple[str, ...]
    system_response: tuple[str, ...]
    opponent_response: tuple[str, ...]
    system_is_left: bool

    @property
    def sides(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The responses as exports show them, left and right."""
        pair = (self.system_response, self.opponent_response)
        return pair if self.system_is_left else pair[::-1]


class Shown(NamedTuple):
    """One item as one rater sees it; says nothing of which response is whose."""

    item: str
    context: tuple[str, ...]
    left: tuple[str, ...]
    right: tuple[str, ...]
    choice: Choice | None  # the rater's vote, if there is one
    revision: int  # how often the rater voted on it


class Answer(NamedTuple):
    """What became of a vote.

    ``stored``: it counts. ``already``: the rater has voted on this item since the page was made, and that
    vote stands. ``full``: others gave the item all its votes. ``unknown``: the rater was never given it.
    """

    status: Literal["stored", "already", "full", "unknown"]
    choice: Choice | None
    revision: int


class Progress(NamedTuple):
    """How far a rater is. ``left`` counts items that still take a vote of theirs."""

    voted: tuple[str, ...]  # items, first vote first
    left: int


class Vote(NamedTuple):
    """One vote, as the analysis sees it."""

    item: str
    conversation_id: str
    rater: str
    source: str
    outcome: Outcome
    system_is_left: bool


class Imported(NamedTuple):
    """A vote that another platform collected, on the side that exports show."""

    item: str
    rater: str  # the platform's own id; only a keyed digest of it is kept
    choice: Choice
    source_id: str  # the platform's id of this answer
    where: str  # file and line, for messages


class Import(NamedTuple):
    """What an import did."""

    stored: int
    known: int  # answers that an earlier import had stored
    changed: int  # such answers with another choice now, which replaced it
    second: int  # further answers of a rater to the same item, left out


def outcome_of(choice: Choice, system_is_left: bool) -> Outcome:
    """The system's fate under a choice of side."""
    if choice == "tie":
        return "tie"
    return "win" if (choice == "left") == system_is_left else "loss"


def choice_of(outcome: str, system_is_left: bool) -> Choice:
    """The side that was chosen for this outcome."""
    if outcome == "tie":
        return "tie"
    return "left" if (outcome == "win") == system_is_left else "right"


class Study:
    """An existing study.

    Raises:
        StudyError: the file is missing, no study, or of a later format; from any method, that it cannot be
            read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise StudyError(f"{path}: no such study (vhcr human-eval build makes one)")
        with self._transaction(write=False) as connection:
            kind, form = (
                connection.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("application_id", "user_version")
            )
            if kind != APPLICATION_ID:
                raise StudyError(f"{path}: an SQLite file, but no study of human evaluation")
            if form != FORMAT:
                raise StudyError(f"{path}: format {form}, but this version reads format {FORMAT}")
            settings, secret = connection.execute("SELECT settings, secret FROM study").fetchone()
        try:
            self.settings = Settings(**json.loads(settings))
        except (TypeError, ValueError) as error:
            raise StudyError(f"{path}: its settings are damaged: {error}") from None
        self._secret = bytes.fromhex(secret)

    @classmethod
    def create(cls, path: Path, settings: Settings, pairs: Sequence[Pair]) -> Study:
        """Write a new study under a temporary name, then give it its own, unless that is taken.

        Raises:
            StudyError: ``path`` exists, for votes are never overwritten; or it cannot be written.
        """
        secret = secrets.token_bytes(32)
        try:
            # It holds what says which response is whose: for its owner alone.
            with (
                atomic(path, replace=False, private=True) as temporary,
                contextlib.closing(sqlite3.connect(temporary, isolation_level=None)) as connection,
            ):
                connection.executescript(f"BEGIN; {SCHEMA}")
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {FORMAT}")
                connection.execute(
                    "INSERT INTO study VALUES (0, ?, ?)",
                    (json.dumps(dataclasses.asdict(settings), ensure_ascii=False), secret.hex()),
                )
                connection.executemany("INSERT INTO items VALUES (?, ?, ?, ?, ?, ?, ?)", _rows(pairs, secret))
                connection.execute("COMMIT")
        except FileExistsError:
            raise StudyError(f"{path}: exists already, with its votes; choose another --output") from None
        except StorageError as error:
            raise StudyError(str(error)) from None
        except sqlite3.Error as error:
            raise StudyError(f"{path}: cannot be written: {error}") from None
        return cls(path)

    # Raters

    def invite(self, name: str) -> str:
        """The token by which a rater is known, made when first asked for; the same each time.

        Raises:
            StudyError: the name is empty, too long, or has characters that a terminal would not show.
        """
        if not name.strip() or len(name) > NAME_LENGTH or not name.isprintable() or name != name.strip():
            raise StudyError(f"{name!r}: a rater's name has 1 to {NAME_LENGTH} printable characters")
        with self._transaction() as connection:
            connection.execute("INSERT OR IGNORE INTO raters VALUES (?, ?)", (_page_rater(name), PAGE))
        return self._token(name)

    def invited(self) -> dict[str, str]:
        """Names of those who may vote on the page, with their tokens."""
        with self._transaction(write=False) as connection:
            rows = connection.execute("SELECT rater FROM raters WHERE source = ? ORDER BY rowid", (PAGE,))
            names = [rater.removeprefix(f"{PAGE}:") for (rater,) in rows]
        return {name: self._token(name) for name in names}

    def rater_of(self, token: str) -> str | None:
        """The rater known by a token."""
        found = None
        for name, expected in self.invited().items():
            if hmac.compare_digest(expected.encode(), token.encode()):
                found = _page_rater(name)
        return found

    # Voting on the page

    def next_item(self, rater: str) -> Shown | None:
        """The item that a rater has open, or else another, reserved from now on. None: there is none now.

        Items with the fewest votes and reservations come first, so that all grow together and reach their
        number; among those the order is the rater's own.
        """
        now = time.time()
        with self._transaction() as connection:
            mine = connection.execute(
                "SELECT item FROM assignments a WHERE rater = ? AND NOT EXISTS "
                "(SELECT 1 FROM votes v WHERE v.item = a.item AND v.rater = a.rater)",
                (rater,),
            ).fetchone()
            taken = self._taken(connection, rater, now)
            if mine is not None and taken.get(mine[0], 0) < self.settings.votes_per_item:
                item = mine[0]
            else:
                if mine is not None:
                    connection.execute(
                        "DELETE FROM assignments WHERE item = ? AND rater = ?", (mine[0], rater)
                    )
                free = [item for item, count in taken.items() if count < self.settings.votes_per_item]
                if not free:
                    return None
                item = min(free, key=lambda each: (taken[each], _digest(self._secret, "order", rater, each)))
                connection.execute(
                    "INSERT INTO assignments VALUES (?, ?, ?, 0)",
                    (item, rater, self._side(connection, item)),
                )
            connection.execute(
                "UPDATE assignments SET reserved_until = ? WHERE item = ? AND rater = ?",
                (now + RESERVED_SECONDS, item, rater),
            )
            return self._shown(connection, rater, item)

    def item(self, rater: str, item: str) -> Shown | None:
        """An item that the rater was given before, with their vote on it; None if they never were."""
        with self._transaction(write=False) as connection:
            return self._shown(connection, rater, item)

    def vote(self, rater: str, item: str, choice: Choice, revision: int) -> Answer:
        """Store a vote, or replace the rater's own one.

        ``revision`` is that of the item as the rater saw it. Whatever was voted since then stands, so that a
        double click, a second tab or a repeated request changes nothing.
        """
        now = time.time()
        with self._transaction() as connection:
            assigned = connection.execute(
                "SELECT system_is_left, reserved_until FROM assignments WHERE item = ? AND rater = ?",
                (item, rater),
            ).fetchone()
            if assigned is None:
                return Answer("unknown", None, 0)
            system_is_left, reserved_until = bool(assigned[0]), assigned[1]
            outcome = outcome_of(choice, system_is_left)
            cast = connection.execute(
                "SELECT outcome, revision FROM votes WHERE item = ? AND rater = ?", (item, rater)
            ).fetchone()
            if cast is not None:
                if cast[1] != revision:
                    return Answer("already", choice_of(cast[0], system_is_left), cast[1])
                if cast[0] != outcome:
                    _replace(connection, item, rater, outcome, now)
                    revision += 1
                return Answer("stored", choice, revision)
            if revision != 0:
                return Answer("unknown", None, 0)
            # A reservation that ran out may have gone to somebody else, who is still reading.
            taken = self._taken(connection, rater, now if reserved_until < now else float("inf"))
            if taken[item] >= self.settings.votes_per_item:
                return Answer("full", None, 0)
            connection.execute(
                "INSERT INTO votes VALUES (?, ?, ?, ?, 1, ?, ?, NULL)",
                (item, rater, outcome, system_is_left, now, now),
            )
            return Answer("stored", choice, 1)

    def progress(self, rater: str) -> Progress:
        """What a rater has voted on, and how many items still take their vote, reserved ones included."""
        with self._transaction(write=False) as connection:
            voted = connection.execute(
                "SELECT item FROM votes WHERE rater = ? ORDER BY first_voted_at, rowid", (rater,)
            ).fetchall()
            taken = self._taken(connection, rater, float("inf"))
        left = sum(count < self.settings.votes_per_item for count in taken.values())
        return Progress(tuple(item for (item,) in voted), left)

    # Other platforms

    def record(self, answers: Iterable[Imported], source: str) -> Import:
        """Store answers from another platform: all of them, or none if one is wrong.

        The same file may come again, or a longer one. A known answer is left as it is, or replaced if its
        choice has changed there; a second answer of a rater to an item is left out. More votes than
        ``votes_per_item`` are accepted: they were given.

        Raises:
            StudyError: an item is not of this study, or a known answer has another rater or item.
        """
        stored = known = changed = second = 0
        now = time.time()
        with self._transaction() as connection:
            sides = dict(connection.execute("SELECT item, system_is_left FROM items").fetchall())
            for answer in answers:
                if answer.item not in sides:
                    raise StudyError(f"{answer.where}: item {answer.item!r} is not of the study {self.path}")
                outcome = outcome_of(answer.choice, bool(sides[answer.item]))
                rater = f"{source}:{_digest(self._secret, source, answer.rater)[:12]}"
                source_id = f"{source}:{_digest(self._secret, source, 'answer', answer.source_id)}"
                before = connection.execute(
                    "SELECT item, rater, outcome FROM votes WHERE source_id = ?", (source_id,)
                ).fetchone()
                if before is None:
                    connection.execute("INSERT OR IGNORE INTO raters VALUES (?, ?)", (rater, source))
                    added = connection.execute(
                        "INSERT OR IGNORE INTO votes VALUES (?, ?, ?, ?, 1, ?, ?, ?)",
                        (answer.item, rater, outcome, sides[answer.item], now, now, source_id),
                    ).rowcount
                    stored += added
                    second += 1 - added
                elif before[:2] != (answer.item, rater):
                    raise StudyError(
                        f"{answer.where}: answer {answer.source_id!r} came before with another rater or item"
                    )
                elif before[2] != outcome:
                    _replace(connection, answer.item, rater, outcome, now)
                    changed += 1
                else:
                    known += 1
        return Import(stored, known, changed, second)

    # Analysis

    def items(self) -> list[Item]:
        """All items, in the order of exports."""
        with self._transaction(write=False) as connection:
            rows = connection.execute(
                "SELECT item, conversation_id, context, system_response, opponent_response, system_is_left "
                "FROM items ORDER BY position"
            ).fetchall()
        return [
            Item(item, conversation, _turns(context), _turns(system), _turns(opponent), bool(side))
            for item, conversation, context, system, opponent, side in rows
        ]

    def votes(self) -> list[Vote]:
        """All votes that count, in the order in which they were first given."""
        with self._transaction(write=False) as connection:
            rows = connection.execute(
                "SELECT item, conversation_id, rater, source, outcome, v.system_is_left FROM votes v "
                "JOIN items USING (item) JOIN raters USING (rater) ORDER BY first_voted_at, v.rowid"
            ).fetchall()
        return [
            Vote(item, conversation, rater, source, outcome, bool(side))
            for item, conversation, rater, source, outcome, side in rows
        ]

    # Within a transaction

    @contextlib.contextmanager
    def _transaction(self, *, write: bool = True) -> Iterator[sqlite3.Connection]:
        """A transaction, which excludes all others if it writes; nothing of it remains after an error."""
        try:
            with contextlib.closing(
                sqlite3.connect(
                    f"{self.path.resolve().as_uri()}?mode=rw",
                    uri=True,
                    timeout=BUSY_SECONDS,
                    isolation_level=None,
                )
            ) as connection:
                connection.execute("PRAGMA foreign_keys = ON")
                connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
                try:
                    yield connection
                    connection.execute("COMMIT")
                except BaseException:
                    connection.rollback()
                    raise
        except sqlite3.Error as error:
            raise StudyError(f"{self.path}: {error}") from None

    def _taken(self, connection: sqlite3.Connection, rater: str, now: float) -> dict[str, int]:
        """Items without a vote of the rater -> votes of others, and their reservations alive at ``now``."""
        return dict(
            connection.execute(
                """
                SELECT item, (SELECT count(*) FROM votes v WHERE v.item = i.item) + (
                    SELECT count(*) FROM assignments a
                    WHERE a.item = i.item AND a.rater != :rater AND a.reserved_until > :now AND NOT EXISTS (
                        SELECT 1 FROM votes v WHERE v.item = a.item AND v.rater = a.rater))
                FROM items i
                WHERE NOT EXISTS (SELECT 1 FROM votes v WHERE v.item = i.item AND v.rater = :rater)
                """,
                {"rater": rater, "now": now},
            ).fetchall()
        )

    def _side(self, connection: sqlite3.Connection, item: str) -> bool:
        """Whether the next rater of an item sees the system on the left: as exports do, then the other side.

        So an item's raters are halved exactly, and a rater's items on average. To halve those, too, would
        make a pattern in what one rater sees, and tell them where a system is once they know it by its style.
        """
        (system_is_left,) = connection.execute(
            "SELECT (system_is_left + (SELECT count(*) FROM assignments a WHERE a.item = i.item)) % 2 "
            "FROM items i WHERE item = ?",
            (item,),
        ).fetchone()
        return bool(system_is_left)

    def _shown(self, connection: sqlite3.Connection, rater: str, item: str) -> Shown | None:
        row = connection.execute(
            """
            SELECT context, system_response, opponent_response, a.system_is_left, outcome,
                   coalesce(revision, 0)
            FROM assignments a JOIN items USING (item) LEFT JOIN votes v USING (item, rater)
            WHERE item = ? AND rater = ?
            """,
            (item, rater),
        ).fetchone()
        if row is None:
            return None
        context, *pair = map(_turns, row[:3])
        system_is_left = bool(row[3])
        left, right = pair if system_is_left else pair[::-1]
        choice = None if row[4] is None else choice_of(row[4], system_is_left)
        return Shown(item, context, left, right, choice, row[5])

    def _token(self, name: str) -> str:
        return _digest(self._secret, "token", name)[:32]


def _replace(connection: sqlite3.Connection, item: str, rater: str, outcome: Outcome, now: float) -> None:
    """Another outcome for a vote; what it was is kept."""
    connection.execute(
        "INSERT INTO replaced_votes SELECT item, rater, revision, outcome, voted_at FROM votes "
        "WHERE item = ? AND rater = ?",
        (item, rater),
    )
    connection.execute(
        "UPDATE votes SET outcome = ?, revision = revision + 1, voted_at = ? WHERE item = ? AND rater = ?",
        (outcome, now, item, rater),
    )


def _rows(pairs: Sequence[Pair], secret: bytes) -> list[tuple[Any, ...]]:
    """Items in an order, under ids and on sides that the secret alone decides; half of them left."""
    ids = [_digest(secret, "item", str(number))[:16] for number in range(len(pairs))]
    by_secret = sorted(range(len(pairs)), key=lambda number: _digest(secret, "position", ids[number]))
    sides = sorted(range(len(pairs)), key=lambda number: _digest(secret, "export side", ids[number]))
    # Of an odd number one is over; the secret says where.
    spare = int(_digest(secret, "spare"), 16) % 2
    left = set(sides[: (len(pairs) + spare) // 2])
    return [
        (
            ids[number],
            position,
            pairs[number].conversation_id,
            *(json.dumps(turns, ensure_ascii=False) for turns in pairs[number][1:]),
            int(number in left),
        )
        for position, number in enumerate(by_secret)
    ]


def _turns(text: str) -> tuple[str, ...]:
    return tuple(json.loads(text))


def _page_rater(name: str) -> str:
    return f"{PAGE}:{name}"


def _digest(secret: bytes, *parts: str) -> str:
    """A keyed digest in hexadecimal; parts are told apart whatever they contain."""
    return hmac.new(secret, json.dumps(parts).encode(), hashlib.sha256).hexdigest()
