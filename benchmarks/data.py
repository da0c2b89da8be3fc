"""Conversations to measure on: real Cornell where it is at hand, else invented ones of the same lengths."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

from vhcr import layout
from vhcr.token_files import Conversations
from vhcr.tokenisation.specials import EOS, SPECIALS, UNK

log = logging.getLogger(__name__)

# Of 1000: Cornell's conversations by number of turns (1 to 10), its utterances by number of words (1 to 30).
TURNS = [0, 458, 210, 114, 71, 45, 29, 19, 15, 40]
WORDS = [1, 2, 63, 59, 74, 79, 74, 68, 61, 51, 45, 38, 35, 31, 27]
WORDS += [26, 23, 20, 18, 16, 15, 13, 13, 12, 10, 9, 8, 8, 7, 94]
SCRATCH = layout.WORK / "benchmarks"


def synthetic(num_conversations: int, vocabulary_size: int, seed: int = 0) -> Conversations:
    """Invented conversations with Cornell's lengths and word frequencies that fall as 1 / rank."""
    draw = np.random.default_rng(seed)
    turns = draw.choice(len(TURNS), num_conversations, p=np.array(TURNS) / sum(TURNS)) + 1
    words = draw.choice(len(WORDS), int(turns.sum()), p=np.array(WORDS) / sum(WORDS)) + 1
    kinds = np.arange(len(SPECIALS), vocabulary_size)
    chance = 1.0 / (kinds - len(SPECIALS) + 1)
    tokens = draw.choice(kinds, int(words.sum()), p=chance / chance.sum()).astype(np.int32)
    word_offsets = np.concatenate([[0], np.cumsum(words)])
    tokens[word_offsets[1:] - 1] = EOS
    row_offsets = np.concatenate([[0], np.cumsum(turns)])
    return Conversations([f"c{i}" for i in range(num_conversations)], tokens, word_offsets, row_offsets)


def tokenised_cornell() -> Path | None:
    """The folder of tokenised Cornell: the pipeline's, or one made here from VHCR_SOURCES; None without."""
    for folder in (layout.tokenised("cornell"), SCRATCH / layout.tokenised("cornell")):
        if (folder / "token_ids" / "train.parquet").exists():
            return folder
    if not os.environ.get("VHCR_SOURCES"):
        return None
    SCRATCH.mkdir(parents=True, exist_ok=True)
    shutil.copyfile("params.yaml", SCRATCH / "params.yaml")
    environment = {**os.environ, "VHCR_SOURCES": str(Path(os.environ["VHCR_SOURCES"]).resolve())}
    for stage in ("download", "tokenise"):
        command = [sys.executable, "-m", f"vhcr.stages.{stage}", "--corpus", "cornell"]
        done = subprocess.run(command, cwd=SCRATCH, env=environment, check=False)
        if done.returncode != 0:
            log.warning("stage %s failed on Cornell; measuring on invented conversations", stage)
            return None
    return SCRATCH / layout.tokenised("cornell")


def _rare_words_unknown(path: Path, vocabulary_size: int) -> Conversations:
    """As a vocabulary of that size would have it: ids fall in frequency, the rest becomes UNK."""
    whole = Conversations.load(path)
    turns = [whole.utterances(index) for index in range(len(whole))]
    words = np.array([len(words) for utterances in turns for words in utterances])
    tokens = np.concatenate([words for utterances in turns for words in utterances])
    return Conversations(
        whole.ids,
        np.where(tokens < vocabulary_size, tokens, UNK),
        np.concatenate([[0], np.cumsum(words)]),
        np.concatenate([[0], np.cumsum(whole.num_turns)]),
    )


def conversations(split: str, vocabulary_size: int) -> tuple[Conversations, str]:
    """A split of Cornell and what to call it in a table."""
    folder = tokenised_cornell()
    if folder is not None:
        return _rare_words_unknown(folder / "token_ids" / f"{split}.parquet", vocabulary_size), "Cornell"
    count = 66_477 if split == "train" else 8_310
    return synthetic(count, vocabulary_size), "invented, with Cornell's lengths"
