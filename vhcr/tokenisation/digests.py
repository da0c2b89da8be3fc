"""Digests of many conversations on disk, compared bucket by bucket, so that memory is bounded.

A digest has 64 bits. That some two of n different contents share one has the chance n² / 2⁶⁵: 0.0003 of a
hundred million, 0.03 of a billion.
"""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path

import polars as pl

from vhcr.files import PARQUET

BUCKET_ROWS = 2**22  # rows that are compared at a time: some 200 MB
ROW_GROUP = 2**14  # of a file that is sorted by digest: what is read of it for one bucket is little more


def of(content: bytes) -> int:
    """The digest of some bytes, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")


def write(path: Path, found: pl.Series, shard: int, **columns: pl.Series) -> None:
    """The digests of a shard's rows, none where null; ``columns`` say more of each row."""
    frame = pl.DataFrame({"digest": found, **columns}).with_row_index("row").with_columns(shard=pl.lit(shard))
    frame = frame.drop_nulls("digest").sort("digest", maintain_order=True)
    frame.write_parquet(path, compression=PARQUET["compression"], row_group_size=ROW_GROUP)


def buckets(paths: list[Path]) -> list[tuple[list[Path], int, int]]:
    """The files, and the first and last digest, of as many buckets as their number of rows asks for."""
    rows = pl.scan_parquet(paths).select(pl.len()).collect().item()
    count = rows // BUCKET_ROWS + 1
    edges = [2**64 * number // count for number in range(count + 1)]
    return [(paths, low, high - 1) for low, high in itertools.pairwise(edges)]


def bucket(paths: list[Path], low: int, high: int) -> pl.DataFrame:
    """The rows of one bucket, in the order of the corpus."""
    between = pl.col("digest").is_between(pl.lit(low, dtype=pl.UInt64), pl.lit(high, dtype=pl.UInt64))
    return pl.scan_parquet(paths).filter(between).collect().sort("shard", "row")


def save_rows(folder: Path, kind: str, rows: pl.DataFrame) -> int:
    """Save rows of shards that a later pass leaves out; their number."""
    if rows.height:
        found = rows.select("shard", "row").sort("shard", "row")
        name = of(found.to_numpy().tobytes())  # no other bucket or round has these rows
        found.write_parquet(folder / f"{kind}-{name:016x}.parquet", row_group_size=ROW_GROUP)
    return rows.height


def saved_rows(folder: Path, kind: str, shard: int) -> pl.Series:
    """Those of one shard."""
    if not any(folder.glob(f"{kind}-*.parquet")):
        return pl.Series("row", dtype=pl.UInt32)
    found = pl.scan_parquet(folder / f"{kind}-*.parquet").filter(pl.col("shard") == shard)
    return found.select("row").unique().collect().to_series()


def save_repeats(paths: list[Path], low: int, high: int, folder: Path) -> int:
    """Save the rows of one bucket whose digest an earlier row has; their number."""
    found = bucket(paths, low, high)
    return save_rows(folder, "names", found.filter(~pl.col("digest").is_first_distinct()))


def distinct(paths: list[Path], low: int, high: int) -> int:
    """The number of digests in one bucket."""
    return int(bucket(paths, low, high)["digest"].n_unique())
