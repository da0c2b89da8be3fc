"""The third pass: a shard's words -> token ids."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vhcr.conversation import SPLITS, Split
from vhcr.tokenisation import digests
from vhcr.tokenisation.specials import EOS, UNK
from vhcr.tokenisation.spool import Shard
from vhcr.tokenisation.tables import TOKEN_IDS, write
from vhcr.tokenisation.vocabulary import Vocabulary


def encode(shard: Shard, vocabulary: Vocabulary) -> Counter[Split]:
    """Write token_ids/<split> of a shard, and the digests of its conversations; unknown words by split."""
    known = pa.array(vocabulary.words)
    unknown: Counter[Split] = Counter()
    found: list[int] = []
    splits: list[Split] = []
    places: list[np.ndarray] = []
    table = pq.read_table(
        shard.folder / "utterances.parquet", columns=["conversation_id", "split", "turn", "words"]
    )
    first = table.filter(pc.equal(table["turn"], 0))  # one row per conversation
    rows = np.load(shard.folder / "rows.npy")
    for split in SPLITS:
        part = table.filter(pc.equal(table["split"], split)).combine_chunks()
        path = shard.folder / "token_ids" / f"{split}.parquet"
        if not part.num_rows:
            write(path, TOKEN_IDS.empty_table())
            continue
        texts = part["words"].combine_chunks()
        ids = pc.index_in(texts.flatten(), value_set=known).fill_null(UNK).to_numpy()
        unknown[split] += int((ids == UNK).sum())
        lengths = texts.value_lengths().to_numpy() + 1
        ends = np.cumsum(lengths)
        tokens = np.full(ends[-1], EOS, dtype=np.int32)
        is_word = np.ones(len(tokens), dtype=bool)
        is_word[ends - 1] = False
        tokens[is_word] = ids
        starts = np.flatnonzero(part["turn"].to_numpy() == 0)
        turns = np.diff(np.append(starts, part.num_rows))
        of_utterances = pa.ListArray.from_arrays(_offsets(lengths), pa.array(tokens))
        of_conversations = pa.ListArray.from_arrays(_offsets(turns), of_utterances)
        names = part["conversation_id"].combine_chunks().take(pa.array(starts))
        write(path, pa.Table.from_arrays([names, of_conversations], schema=TOKEN_IDS))
        edges = np.append(0, ends)[np.append(starts, part.num_rows)].tolist()
        found += [digests.of(tokens[start:end].tobytes()) for start, end in itertools.pairwise(edges)]
        splits += [split] * len(starts)
        places.append(rows[pc.equal(first["split"], split).to_numpy(zero_copy_only=False)])
    digests.write(
        shard.folder / "token_ids.parquet",
        pl.Series(found, dtype=pl.UInt64),
        shard.number,
        split=pl.Series(splits, dtype=pl.String),
        conversation=pl.Series(np.concatenate(places) if places else [], dtype=pl.Int32),
    )
    return unknown


def _offsets(lengths: np.ndarray) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
