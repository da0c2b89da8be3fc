"""The rows of CSV, TSV, Excel, Parquet and JSON files, with where each stands."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from vhcr.corpora import jsonl
from vhcr.corpora.records import SourceFile, source_files
from vhcr.corpora.skipped import Skipped
from vhcr.corpora.text_files import delimiter_of, dialect, is_clean, opened, undecodable
from vhcr.corpora.times import WRITTEN, time_of
from vhcr.errors import CorpusError
from vhcr.params import SourceParams, TableColumns

DELIMITERS = {".csv": ",", ".tsv": "\t"}
WORKBOOKS = (".xlsx", ".xls", ".xlsb", ".ods")
PLAIN = (*DELIMITERS, ".parquet", *WORKBOOKS)
SUFFIXES = (*PLAIN, *jsonl.SUFFIXES)
MAX_FIELD_CHARACTERS = 2**24
ROWS_PER_BATCH = 4096
HEADER_ROWS = 2000  # objects whose keys are the columns
INTEGER = re.compile(r"[+-]?\d+(\.0*)?")

Row = tuple[list[Any], str]


def named(columns: TableColumns) -> dict[str, str]:
    """Key below ``source.columns`` -> the column it names, in the order in which rows hold them."""
    single = {
        key: getattr(columns, key)
        for key in ("conversation", "turn", "time", "text", "speaker", "split", "group")
    }
    found = {key: name for key, name in single.items() if name is not None}
    for key in ("labels", "utterance_labels"):
        found |= {f"{key}[{number}]": name for number, name in enumerate(getattr(columns, key))}
    return found


def tables(folder: Path) -> list[SourceFile]:
    """The tables of a raw corpus; JSON files hold rows only where no other table is."""
    return source_files(folder, PLAIN) or source_files(folder, jsonl.SUFFIXES)


def rows_of(file: SourceFile, source: SourceParams, skipped: Skipped) -> Iterator[Row]:
    """Each row's cells, those that ``named`` lists, and its place; rows that are none are counted.

    Raises:
        CorpusError: the file is damaged, a named column is absent or there twice, or a quotation mark that
            never closes takes in the rows after it.
    """
    suffix = file.path.suffix.lower()
    if suffix == ".parquet":
        return _parquet_rows(file, source.columns)
    if suffix in WORKBOOKS:
        return _workbook_rows(file, source.columns, skipped)
    if suffix in jsonl.SUFFIXES:
        return _json_rows(file, source, skipped)
    return _csv_rows(file, source, skipped)


def header_of(path: Path, source: SourceParams) -> list[str]:
    """Names of the columns.

    Raises:
        CorpusError: the file is damaged.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        try:
            return [str(name) for name in pyarrow.parquet.read_schema(path).names]
        except (pyarrow.ArrowException, OSError) as error:
            raise CorpusError(f"{path}: not a readable Parquet file: {error}") from error
    if suffix in WORKBOOKS:
        _, rows = _sheet(path)
        return [str(cell) for cell in rows[0]] if rows else []
    if suffix in jsonl.SUFFIXES:
        found = jsonl.objects(SourceFile(path, path.name, "", None), path.parent, Skipped(), source.encoding)
        return list(dict.fromkeys(key for value, _ in islice(found, HEADER_ROWS) for key in value))
    with opened(path, source.encoding, newline="") as text:
        return next(csv.reader(text, **_dialect(path, source, strict=False)), [])


def _positions(path: Path, header: Sequence[str], columns: TableColumns) -> list[int]:
    wanted = named(columns)
    missing = [f"{name!r} (source.columns.{key})" for key, name in wanted.items() if name not in header]
    if missing:
        raise CorpusError(f"{path}: no column {', '.join(missing)}; it has {', '.join(map(repr, header))}")
    twice = [f"{name!r} (source.columns.{key})" for key, name in wanted.items() if header.count(name) > 1]
    if twice:
        raise CorpusError(f"{path}: several columns are called {', '.join(twice)}: name each differently")
    return [header.index(name) for name in wanted.values()]


def _dialect(path: Path, source: SourceParams, *, strict: bool) -> dict[str, Any]:
    delimiter = source.delimiter or delimiter_of(
        path, source.encoding, source.quotechar, DELIMITERS.get(path.suffix.lower(), ",")
    )
    return dialect(delimiter, source.quotechar, strict=strict)


class _Remembering:
    """Lines of a file that keeps those which the present row took up."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self.taken: list[str] = []

    def __iter__(self) -> _Remembering:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.taken.append(line)
        return line


def _csv_rows(file: SourceFile, source: SourceParams, skipped: Skipped) -> Iterator[Row]:
    csv.field_size_limit(MAX_FIELD_CHARACTERS)
    how = _dialect(file.path, source, strict=True)
    with opened(file.path, source.encoding, newline="") as text:
        lines = _Remembering(iter(text))
        reader = csv.reader(lines, **how)
        header = next(reader, [])
        positions = _positions(file.path, header, source.columns)
        while True:
            first = reader.line_num + 1
            lines.taken.clear()
            try:
                row = next(reader, None)
            except csv.Error as error:
                if reader.line_num > first:
                    raise _unclosed(file.path, first, reader.line_num) from None
                skipped.add(f"not valid CSV: {error}", f"{file.name}:{reader.line_num}")
                continue
            if row is None:
                return
            if len(lines.taken) > 1 and any(
                _is_row(line, row, source.columns, header, how["delimiter"]) for line in lines.taken[1:]
            ):
                raise _unclosed(file.path, first, reader.line_num)
            where = f"{file.name}:{reader.line_num}"
            if not row:
                continue
            if len(row) != len(header):
                skipped.add("row of another width than the header", where)
            elif not is_clean("".join(row)):
                skipped.add(undecodable(file.path, source.encoding), where)
            else:
                yield [row[position] for position in positions], where


def _unclosed(path: Path, first: int, last: int) -> CorpusError:
    return CorpusError(
        f"{path}: line {first}: a quotation mark opens in this row and does not close there: it takes in the "
        f"rows to line {last}; mend the cell, or say source.quotechar: null where quotation marks are text"
    )


def _is_row(
    line: str, within: Sequence[str], columns: TableColumns, header: Sequence[str], delimiter: str
) -> bool:
    """Whether a line of a quoted cell is a row by itself: then the quotation mark was a stray one.

    ``within`` is the row that holds it. A text may well have as many delimiters as the table, so a column
    must say it, too: a turn that is an integer, a time, or an id made like that of the row.
    """
    cells = line.rstrip("\r\n").split(delimiter)
    if len(cells) != len(header):
        return False

    def cell(name: str) -> str:
        return cells[header.index(name)].strip()

    if columns.turn is not None:
        return INTEGER.fullmatch(cell(columns.turn)) is not None
    if columns.time is not None:
        return WRITTEN.fullmatch(cell(columns.time)) is not None or time_of(cell(columns.time)) is not None
    if columns.conversation is not None:
        place = header.index(columns.conversation)
        own = within[place].strip() if place < len(within) else ""
        return " " not in own and _shape(cell(columns.conversation)) == _shape(own)
    return False


def _shape(text: str) -> str:
    return re.sub(r"\d+", "0", text)


def _sheet(path: Path) -> tuple[list[str], list[list[Any]]]:
    """Names of the sheets that hold something, and the rows of the first."""
    import python_calamine

    try:
        with python_calamine.load_workbook(str(path)) as book:
            names = [name for name in book.sheet_names if book.get_sheet_by_name(name).total_height]
            rows = book.get_sheet_by_name(names[0]).to_python() if names else []
    except (python_calamine.CalamineError, OSError) as error:
        raise CorpusError(f"{path}: not a readable workbook: {error}") from error
    return names, rows


def _workbook_rows(file: SourceFile, columns: TableColumns, skipped: Skipped) -> Iterator[Row]:
    """The first sheet that holds something. A number in a cell is text where text is wanted."""
    names, rows = _sheet(file.path)
    for name in names[1:]:
        skipped.note("sheet after the first, not read", f"{file.name}: {name}")
    header = [str(cell) for cell in rows[0]] if rows else []
    positions = _positions(file.path, header, columns)
    text = list(named(columns)).index("text")
    for number, row in enumerate(rows[1:], start=2):
        cells = [row[position] for position in positions]
        if all(cell == "" for cell in cells):
            continue
        if isinstance(cells[text], int | float) and not isinstance(cells[text], bool):
            cells[text] = f"{cells[text]:g}"
        yield cells, f"{file.name}: row {number}"


def _parquet_rows(file: SourceFile, columns: TableColumns) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file.path) as parquet:
            _positions(file.path, parquet.schema_arrow.names, columns)
            names = list(named(columns).values())
            wanted = list(dict.fromkeys(names))
            number = 0
            for batch in parquet.iter_batches(batch_size=ROWS_PER_BATCH, columns=wanted):
                values = {key: batch.column(key).to_pylist() for key in wanted}
                for index in range(batch.num_rows):
                    number += 1
                    yield [values[key][index] for key in names], f"{file.name}: row {number}"
    except (pyarrow.ArrowException, OSError) as error:
        raise CorpusError(f"{file.path}: not a readable Parquet file: {error}") from error


def _json_rows(file: SourceFile, source: SourceParams, skipped: Skipped) -> Iterator[Row]:
    """Objects of cells, one a line or in an array; a key that one lacks is an empty cell."""
    names = list(named(source.columns).values())
    _positions(file.path, header_of(file.path, source), source.columns)
    folder = file.path.parents[file.name.count("/")]
    for value, where in jsonl.objects(file, folder, skipped, source.encoding):
        yield [value.get(name) for name in names], where
