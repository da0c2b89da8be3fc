"""What each difference between the two readings of the paper does to the numbers.

    python -m benchmarks.readings --corpus toy --system vhcr-ud --seeds 0 1 2

Trains the system in the paper's reading, in the release's, and in the paper's with one field at a time taken
from the release's; everything else alike. Each finished run is added to ``readings-<corpus>.json``, and one
that stands there already is not made again. With ``--trained`` nothing is trained: the two readings are runs
of the pipeline, SYSTEM and SYSTEM-release in ``data/trained``. Numbers are of the validation split, whole:

- ``nll_later_turns``: the bound on all turns but the first, which both readings score, in nats per word of
  theirs; the KL of z_conv is counted in full, and that of later z_utt.
- ``kl_conv``, in nats a conversation; ``kl_utt``, in nats a scored utterance.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from rich.console import Console
from rich.table import Table

from vhcr import layout
from vhcr.errors import DataError
from vhcr.files import read_json, write_json
from vhcr.models import ConversationModel, build
from vhcr.models.reading import READINGS, Reading
from vhcr.params import CorpusParams, Params, SystemParams, fingerprint
from vhcr.provenance import read_run
from vhcr.token_files import Conversations

MEASURES = ("nll_later_turns", "kl_conv", "kl_utt")


def variants() -> dict[str, Reading]:
    """The two readings, and the paper's with each field of the release's where they differ."""
    paper, release = READINGS["paper"], READINGS["release"]
    single = {
        field.name: replace(paper, **{field.name: getattr(release, field.name)})
        for field in fields(Reading)
        if getattr(paper, field.name) != getattr(release, field.name)
    }
    return {"paper": paper, **single, "release": release}


@contextmanager
def read_as(reading: Reading) -> Iterator[None]:
    """Models built inside have this reading, which need not have a name."""
    kept = READINGS["paper"]
    READINGS["paper"] = reading
    try:
        yield
    finally:
        READINGS["paper"] = kept


def train(
    reading: Reading, corpus: str, params: CorpusParams, system: SystemParams, seed: int
) -> dict[str, Any]:
    """One run with the corpus's own settings, and its measures."""
    from vhcr.tokenisation.vocabulary import Vocabulary
    from vhcr.training.device import choose_device, set_up_cpu
    from vhcr.training.loop import adam, fit
    from vhcr.training.state import TrainState, load_parameters, read_tensors

    source = layout.tokenised(corpus)
    vocabulary = Vocabulary.load(source / "vocabulary.parquet")
    splits = {
        split: Conversations.load(source / "token_ids" / f"{split}.parquet", len(vocabulary))
        for split in ("train", "validation")
    }
    set_up_cpu(params.training.num_threads)
    with read_as(reading):
        model = build(params.model, system, len(vocabulary), seed)
    model.to(choose_device(params.training.device))
    state = TrainState(model, adam(model, params.training), "readings")
    with tempfile.TemporaryDirectory() as work:
        fit(state, splits["train"], splits["validation"], params.training, seed=seed, work=Path(work))
        best = Path(work) / "best.safetensors"
        load_parameters(model, read_tensors(best)[0], best)
    return measures(model.eval(), splits["validation"], params.training.batch_conversations)


def trained(corpus: str, name: str, seed: int, params: CorpusParams, system: SystemParams) -> dict[str, Any]:
    """The measures of a run of the pipeline, and what made it.

    Raises:
        DataError: it was trained with other parameters than these, or on other data than what is there now.
    """
    from vhcr.results.labels import OPERATIONAL
    from vhcr.training.device import set_up_cpu
    from vhcr.training.run import TrainedRun

    folder = layout.trained(corpus, name, seed)
    run = TrainedRun.load(folder)
    for section, mine in {"system": system, "model": params.model, "training": params.training}.items():
        theirs, ours = getattr(run.params, section).model_dump(), mine.model_dump()
        other = [key for key in ours if key not in OPERATIONAL and theirs[key] != ours[key]]
        if other:
            raise DataError(f"{folder}: trained with {section}.{other[0]} = {theirs[other[0]]!r}")
    source = layout.tokenised(corpus)
    if run.info["data_hash"] != read_json(source / "manifest.json")["data_hash"]:
        raise DataError(f"{folder}: trained on other data than {source}")
    set_up_cpu(params.training.num_threads)
    data = Conversations.load(source / "token_ids" / "validation.parquet", len(run.vocabulary))
    said = read_run(folder)
    made = {key: said.get(key) for key in ("code_version", "dirty", "machine", "versions")}
    return {**measures(run.model, data, params.training.batch_conversations), "made_by": made}


def measures(model: ConversationModel, data: Conversations, batch_conversations: int) -> dict[str, Any]:
    """See the head of this file."""
    from vhcr.evaluation.likelihood import score

    scores = score(model, data, batch_conversations, seed=0)
    later = scores.error_by_turn[:, 1:].sum() + scores.kl_conv.sum()
    utterances = (scores.words_by_turn > 0).sum()
    return {
        "nll_later_turns": float(later / scores.words_by_turn[:, 1:].sum()),
        "kl_conv": float(scores.kl_conv.mean()),
        "kl_utt": float(scores.kl_utt.sum() / utterances),
        "per_word": scores.per_word(),
    }


def summary(runs: Sequence[dict[str, Any]]) -> Table:
    """Mean and deviation over the seeds of each variant."""
    table = Table(title="The paper's reading with one field of the release's at a time")
    table.add_column("reading")
    table.add_column("seeds", justify="right")
    for name in MEASURES:
        table.add_column(name, justify="right")
    for variant in dict.fromkeys(run["variant"] for run in runs):
        own = [run for run in runs if run["variant"] == variant]
        cells = []
        for name in MEASURES:
            values = [run[name] for run in own]
            spread = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
            cells.append(f"{mean(values):.3f}{spread}")
        table.add_row(variant, str(len(own)), *cells)
    return table


def main(argv: Sequence[str] | None = None) -> None:
    """Train what is not there yet, then show all."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        prog="python -m benchmarks.readings",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--corpus", default="toy", help="tokenised already (default: toy)")
    parser.add_argument("--system", default="vhcr-ud", help="in the paper's reading (default: vhcr-ud)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--max-steps", type=int, help="end earlier than the corpus's settings say")
    parser.add_argument("--trained", action="store_true", help="of runs of the pipeline: paper and release")
    parser.add_argument("--variants", nargs="+", choices=list(variants()), default=list(variants()))
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"), help="folder for the JSON")
    arguments = parser.parse_args(argv)

    from vhcr.provenance import code_version, machine, versions

    every = Params.load()
    params, system = every.corpus(arguments.corpus), every.system(arguments.system, arguments.corpus)
    if arguments.max_steps is not None:
        training = params.training.model_copy(update={"max_steps": arguments.max_steps})
        params = params.model_copy(update={"training": training})
    data_hash = read_json(layout.tokenised(arguments.corpus) / "manifest.json")["data_hash"]
    settings = fingerprint(params.model, params.training, system, data_hash)
    path = arguments.out / f"readings-{arguments.corpus}.json"
    runs: list[dict[str, Any]] = read_json(path) if path.exists() else []
    names = {"paper": arguments.system, "release": f"{arguments.system}-release"}
    for seed in arguments.seeds:
        for variant in arguments.variants:
            key = {"variant": variant, "seed": seed, "settings": settings}
            if any(key.items() <= run.items() for run in runs):
                continue
            if arguments.trained:
                if (
                    variant not in names
                    or not layout.trained(arguments.corpus, names[variant], seed).exists()
                ):
                    continue
                read = every.system(names[variant], arguments.corpus)
                found = trained(arguments.corpus, names[variant], seed, params, read)
            else:
                found = train(variants()[variant], arguments.corpus, params, system, seed)
                commit = code_version()
                found["made_by"] = {"code_version": commit.commit, "dirty": commit.dirty}
                found["made_by"] |= {"machine": machine(), "versions": versions()}
            found["made_by"] |= {"data_hash": data_hash, "system": system.model_dump()}
            found["made_by"] |= {"model": params.model.model_dump(), "training": params.training.model_dump()}
            runs.append({**key, **found})
            write_json(path, runs, by_rows=True)
    Console().print(summary([run for run in runs if run["settings"] == settings]))


if __name__ == "__main__":
    main()
