"""Tables 1 to 3 and those beyond the paper, each defined once; a template writes the cells in each format."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from vhcr.evaluation.records import BySource, EmbeddingScore, Information, Probe, SampledResponses, TextScore
from vhcr.report.claims import signed
from vhcr.report.templates import NOTHING, rendered
from vhcr.results.compare import Evidence
from vhcr.results.labels import label
from vhcr.results.paper import PaperFigures
from vhcr.results.records import Embeddings
from vhcr.results.runs import EMBEDDING_METRICS, RESPONSE_MEASURES, Run
from vhcr.results.statistics import MeanAndDeviation, mean_and_deviation

T = TypeVar("T")
Value = Callable[[Run], float | None]
Level = Literal["conv", "utt"]

_BEST = (
    "Bold: the best, and whatever cannot be told apart from it (95 % paired bootstrap over test conversations"
    " and seeds)."
)
_BOUNDED = ("nll_per_word", "perplexity", "subset", "importance_weighted")


@dataclass(frozen=True)
class Column:
    """One measure: how a run's number is found, and how it is shown."""

    key: str
    title: str
    value: Value
    digits: int = 3
    group: str = ""
    percent: bool = False
    paper: bool = False  # whether the paper has figures for it
    leaders: bool = False  # whether the best is marked

    def text(self, value: float | None) -> str:
        """The number as it is printed."""
        if value is None:
            return NOTHING
        shown = f"{100 * value:.1f} %" if self.percent else f"{value:,.{self.digits}f}"
        if self.digits and abs(value) >= 1e5:  # a variance ratio has no limit
            shown = f"{value:.1e}".replace("e+0", "e").replace("e+", "e")
        if not any(digit in shown for digit in "123456789"):
            shown = shown.removeprefix("-")  # no "-0.000"
        return shown.replace("-", "−")


@dataclass(frozen=True)
class Cell:
    """What one field shows: our number, its deviation over seeds, the paper's figure."""

    text: str
    deviation: str = ""
    prefix: str = ""  # "≤ " before a bound
    paper: str | None = None  # None: the column has no paper figures
    best: bool = False


@dataclass(frozen=True)
class Row:
    """A system, or one seed of it."""

    system: str
    label: str
    cells: list[Cell]
    seeds: list[Row]


@dataclass(frozen=True)
class Table:
    """A table with its caption; ``columns`` and each row's cells run in parallel."""

    id: str
    title: str
    caption: str
    columns: list[Column]
    rows: list[Row]

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Neighbouring columns under one heading, with how many fields each spans."""
        spans: list[tuple[str, int]] = []
        for column in self.columns:
            width = 2 if column.paper else 1
            if spans and spans[-1][0] == column.group:
                spans[-1] = (column.group, spans[-1][1] + width)
            else:
                spans.append((column.group, width))
        return spans

    @property
    def has_paper(self) -> bool:
        """Whether any column has the paper's figures beside ours."""
        return any(column.paper for column in self.columns)

    @property
    def several_seeds(self) -> bool:
        """Whether any system has more than one."""
        return any(len(row.seeds) > 1 for row in self.rows)


def tables(evidence: Evidence, paper: PaperFigures) -> list[Table]:
    """All tables that have at least one number."""
    made = [
        _likelihood(evidence, paper),
        _kl(evidence, paper),
        _responses(evidence, paper),
        _differences(evidence),
        _serban(evidence),
        _text(evidence),
        _diversity(evidence),
        _diagnostics(evidence),
        _probes(evidence),
        _sources(evidence),
    ]
    return [table for table in made if table is not None]


def latex(table: Table) -> str:
    r"""The table for a paper: booktabs, "mean \pm deviation", the paper's figures beside ours."""
    return rendered("table.tex.jinja", table=table)


def as_csv(table: Table) -> str:
    """One line per system and seed, means and deviations too, at the printed precision."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    heads = ["system", "seed"]
    for column in table.columns:
        title = f"{column.group} {column.title}".strip()
        heads += [title, f"{title}, deviation"] + ([f"{title}, paper"] if column.paper else [])
    writer.writerow(heads)
    for row in table.rows:
        for line, seed in [(row, "mean"), *((one, one.label.removeprefix("seed ")) for one in row.seeds)]:
            fields = [row.system, seed]
            for column, cell in zip(table.columns, line.cells, strict=True):
                fields += [_plain(cell.text), _plain(cell.deviation)]
                fields += [_plain(cell.paper or "")] if column.paper else []
            writer.writerow(fields)
    return stream.getvalue()


def _plain(text: str) -> str:
    return "" if text == NOTHING else re.sub(r"(?<=\d),(?=\d{3})", "", text.replace("−", "-"))


def _of(part: Callable[[Run], T | None], number: Callable[[T], float | None]) -> Value:
    """A number of a part of the evaluation that a run may lack."""

    def value(run: Run) -> float | None:
        found = part(run)
        return None if found is None else number(found)

    return value


def _measure(
    title: str, key: str, *, group: str = "", paper: bool = False, leaders: bool = False, latent: bool = False
) -> Column:
    """A number of table.json; ``latent``: nothing for a system that has no latent variable."""

    def value(run: Run) -> float | None:
        return run.value(key) if run.is_bound or not latent else None

    return Column(key, title, value, group=group, paper=paper, leaders=leaders)


def _table(
    evidence: Evidence,
    id: str,
    title: str,
    caption: str,
    columns: Sequence[Column],
    *,
    paper: PaperFigures | None = None,
    table: int | None = None,
    bounds: bool = False,
) -> Table | None:
    """Rows by system with a sub-row for each seed; columns without a single number of ours are left out."""
    results = evidence.results
    used = [column for column in columns if any(column.value(run) is not None for run in results.runs)]
    if not used:
        return None
    marked = {column.key: evidence.leaders(column.key, results.systems) for column in used if column.leaders}
    rows = []
    for system in results.systems:
        runs = results.of(system)
        if all(column.value(run) is None for column in used for run in runs):
            continue
        cells = []
        for column in used:
            known = [value for run in runs if (value := column.value(run)) is not None]
            summary = mean_and_deviation(known)
            figure = (
                paper.value(results.kinds.get(system, ""), column.key, table)
                if paper and column.paper
                else None
            )
            cells.append(
                Cell(
                    column.text(summary.mean if summary else None),
                    _deviation(column, summary),
                    "≤ " if bounds and column.key in _BOUNDED and summary and runs[0].is_bound else "",
                    column.text(figure) if column.paper else None,
                    system in marked.get(column.key, ()),
                )
            )
        seeds = [
            Row(
                system,
                f"seed {run.seed}",
                [Cell(column.text(column.value(run)), paper="" if column.paper else None) for column in used],
                [],
            )
            for run in runs
        ]
        rows.append(Row(system, label(system), cells, seeds))
    return Table(id, title, caption, used, rows)


def _deviation(column: Column, summary: MeanAndDeviation | None) -> str:
    return column.text(summary.deviation) if summary and summary.deviation is not None else ""


def _likelihood(evidence: Evidence, paper: PaperFigures) -> Table | None:
    ours = paper.corpus is not None
    columns = [
        _measure("NLL", "nll_per_word", paper=ours, leaders=True),
        _measure("Recon.", "reconstruction_per_word", paper=ours, latent=True),
        _measure("KL", "kl_per_word", paper=ours, latent=True),
        Column("perplexity", "Perplexity", lambda run: run.evaluation.perplexity, digits=1),
    ]
    caption = "Nats per target word on the test split, EOS counted; ≤ marks an upper bound on the NLL. "
    largest = max((k for run in evidence.results.runs for k in run.bounds), default=None)
    if largest:

        def tightest(run: Run) -> float | None:
            return run.bounds.get(largest) if run.is_bound else run.value("importance_weighted")

        group = "Subset of the test split"
        columns += [
            Column(
                "subset",
                "NLL, one sample",
                lambda run: run.evaluation.importance_bound_subset_nll_per_word,
                group=group,
            ),
            Column("importance_weighted", f"NLL, K = {largest}", tightest, group=group, leaders=True),
        ]
        caption += (
            f"The importance-weighted bound with K = {largest} samples is tighter, and the fairer comparison "
            "with HRED's exact NLL; a plot shows how it converges. "
        )
    apart = [system for system in evidence.results.systems if not evidence.usual_words(system)]
    if apart:
        caption += (
            f"{', '.join(map(label, apart))}: nats of other words (the reading `release` scores no first "
            "utterance), so not compared with the others. "
        )
    return _table(
        evidence,
        "table1",
        "Table 1: negative log-likelihood",
        f"{caption}{_BEST} {paper.note(1)}".strip(),
        columns,
        paper=paper,
        table=1,
        bounds=True,
    )


def _kl(evidence: Evidence, paper: PaperFigures) -> Table | None:
    def share(run: Run) -> float | None:
        conv, total = run.value("kl_conv_per_word"), run.value("kl_per_word")
        return conv / total if conv and total else None

    ours = paper.corpus is not None
    columns = [
        _measure("Total", "kl_per_word", paper=ours, latent=True),
        _measure("z_conv", "kl_conv_per_word", paper=ours, latent=True),
        _measure("z_utt", "kl_utt_per_word", paper=ours, latent=True),
        Column("share", "z_conv's share", share, percent=True),
    ]
    caption = f"Nats per target word on the test split. {paper.note(2)}".strip()
    title = "Table 2: KL divergence by latent level"
    return _table(evidence, "table2", title, caption, columns, paper=paper, table=2)


def _vectors(embeddings: Embeddings | None) -> str:
    """Which word vectors our own scores come from: scores by other vectors are not comparable."""
    if embeddings is None:
        return ""
    own = embeddings.source == "corpus"
    named = "word2vec trained on the training split" if own else embeddings.origin
    coverage = embeddings.token_coverage
    known = "" if coverage is None else f", which know {coverage:.1%} of the test split's words"
    return f"Our vectors: {named}{known}."


def _group(turns: int) -> str:
    return f"{turns} turn{'s' if turns != 1 else ''}"


def _pairs(scores: Callable[[Run], EmbeddingScore | None], group: str, key: str) -> list[Column]:
    return [
        Column(f"{key}.kept", "Kept", _of(scores, lambda s: s.num_pairs), 0, group),
        Column(f"{key}.dropped", "Dropped", _of(scores, lambda s: s.num_dropped), 0, group),
    ]


def _responses(evidence: Evidence, paper: PaperFigures) -> Table | None:
    ours = paper.corpus is not None
    columns = []
    for turns in (1, 3):

        def scores(run: Run, turns: int = turns) -> EmbeddingScore | None:
            return run.evaluation.responses.get(turns)

        columns += [
            _measure(m.capitalize(), f"{m}_{turns}turn", group=_group(turns), paper=ours, leaders=True)
            for m in EMBEDDING_METRICS
        ]
        columns += _pairs(scores, _group(turns), f"{turns}")
    return _table(
        evidence,
        "table3",
        "Table 3: embedding metrics",
        "Similarity of responses to what was really said, by the definition of the paper's program: greedy "
        "matching from each reference word; pairs without a known word on either side dropped. Mean over "
        f"turns. {_vectors(evidence.results.data.embeddings)} {_BEST} {paper.note(3)}".strip(),
        columns,
        paper=paper,
        table=3,
    )


def _serban(evidence: Evidence) -> Table | None:
    columns = []
    for turns in (1, 3):

        def scores(run: Run, turns: int = turns) -> EmbeddingScore | None:
            found = run.evaluation.responses.get(turns)
            return None if found is None else found.serban

        group = _group(turns)
        columns += [
            Column(f"{turns}.average", "Average", _of(scores, lambda s: s.average), group=group),
            Column(f"{turns}.extrema", "Extrema", _of(scores, lambda s: s.extrema), group=group),
            Column(f"{turns}.greedy", "Greedy", _of(scores, lambda s: s.greedy), group=group),
            *_pairs(scores, group, f"{turns}"),
        ]
    return _table(
        evidence,
        "serban",
        "Embedding metrics in the other definition in use",
        "Definition of the script of Serban et al. (2017): greedy matching both ways; a response without a "
        "known word scores 0. Not comparable with Table 3.",
        columns,
    )


def _text(evidence: Evidence) -> Table | None:
    columns = []
    for turns in (1, 3):

        def scores(run: Run, turns: int = turns) -> TextScore | None:
            return run.evaluation.responses.get(turns)

        group = _group(turns)
        columns += [
            Column(f"{turns}.bleu", "BLEU", _of(scores, lambda s: s.bleu), 2, group),
            Column(f"{turns}.distinct_1", "Distinct-1", _of(scores, lambda s: s.distinct_1), 4, group),
            Column(f"{turns}.distinct_2", "Distinct-2", _of(scores, lambda s: s.distinct_2), 4, group),
            Column(f"{turns}.entropy", "Entropy", _of(scores, lambda s: s.entropy), 2, group),
            Column(f"{turns}.length_ratio", "Length ratio", _of(scores, lambda s: s.length_ratio), 2, group),
            Column(f"{turns}.repetition", "Repetition", _of(scores, lambda s: s.repetition), 3, group, True),
        ]
    return _table(
        evidence,
        "text",
        "Properties of responses beyond the paper",
        "BLEU-4 in points; distinct n-grams of all n-grams; entropy of the words in nats; words of the "
        "responses by words of the references; share of bigrams that a response repeats.",
        columns,
    )


def _diversity(evidence: Evidence) -> Table | None:
    def greedy(run: Run) -> SampledResponses | None:
        return None if run.evaluation.diversity is None else run.evaluation.diversity.greedy

    def beam(run: Run) -> SampledResponses | None:
        return None if run.evaluation.diversity is None else run.evaluation.diversity.beam

    def sample(run: Run) -> SampledResponses | None:
        return None if run.evaluation.diversity is None else run.evaluation.diversity.sample

    columns = []
    ways = {"greedy decoding": greedy, "beam decoding": beam, "every word sampled": sample}
    for group, way in ways.items():
        columns += [
            Column(f"{group}.embedding_diversity", "Embedding diversity",
                   _of(way, lambda s: s.embedding_diversity), group=group),
            Column(f"{group}.distinct_responses", "Different", _of(way, lambda s: s.distinct_responses),
                   group=group, percent=True),
            Column(f"{group}.distinct_1", "Distinct-1", _of(way, lambda s: s.distinct_1), 4, group),
            Column(f"{group}.distinct_2", "Distinct-2", _of(way, lambda s: s.distinct_2), 4, group),
        ]  # fmt: skip
    return _table(
        evidence,
        "diversity",
        "How much several responses to one context differ",
        "1 − mean cosine between two responses to the same context; share of responses that are different "
        "ones. By greedy or beam decoding, all that differs comes from the latents.",
        columns,
    )


def _diagnostics(evidence: Evidence) -> Table | None:
    def conv(run: Run) -> Information | None:
        return run.evaluation.diagnostics.mutual_information_conv

    def utt(run: Run) -> Information | None:
        return run.evaluation.diagnostics.mutual_information_utt

    columns = [
        Column("active_units_conv", "z_conv", lambda run: run.evaluation.diagnostics.active_units_conv, 0,
               "Active units"),
        Column("active_units_utt", "z_utt", lambda run: run.evaluation.diagnostics.active_units_utt, 0,
               "Active units"),
        Column("prior_variance_ratio", "E[var] / Var(µ)",
               lambda run: run.evaluation.diagnostics.prior_variance_ratio, group="Prior of z_utt"),
    ]  # fmt: skip
    for level, information in (("conv", conv), ("utt", utt)):
        group = f"I(x; z_{level}), nats"
        columns += [
            Column(f"information_{level}", "estimate", _of(information, lambda i: i.estimate), 2, group),
            Column(f"error_{level}", "std. error", _of(information, lambda i: i.standard_error), 2, group),
            Column(
                f"most_{level}",
                "at most",
                _of(information, lambda i: math.log(i.num_posteriors) if i.num_posteriors else None),
                2,
                group,
            ),
        ]
    return _table(
        evidence,
        "diagnostics",
        "Is the latent variable used?",
        "Active units: dimensions whose posterior mean varies over the test split by more than 0.01. The "
        "prior's variance ratio falls to 0 where priors shrink to separate points (Fig. 2); where they are "
        "all alike it is large without limit. Mutual information of an utterance, or a conversation, and "
        "its z by the aggregated posterior (Hoffman and Johnson, 2016), biased low: it cannot exceed the "
        "log of the number of posteriors.",
        columns,
    )


def _sources(evidence: Evidence) -> Table | None:
    def errors(run: Run) -> BySource | None:
        return run.evaluation.diagnostics.reconstruction_per_word_by_source

    def gain(other: Callable[[BySource], float | None]) -> Value:
        def rise(found: BySource) -> float | None:
            replaced = other(found)
            return None if replaced is None else replaced - found.posterior

        return _of(errors, rise)

    def share(other: Callable[[BySource], float | None]) -> Value:
        def of_error(found: BySource) -> float | None:
            replaced = other(found)
            return (replaced - found.posterior) / replaced if replaced else None

        return _of(errors, of_error)

    columns = [
        Column("posterior", "its posterior", _of(errors, lambda s: s.posterior), group="Reconstruction error")
    ]
    prior, shuffled = "Gain over z from the prior", "Gain over z from another's posterior"
    columns += [
        Column("gain_prior", "both levels", gain(lambda s: s.prior), group=prior),
        Column("gain_prior_conv", "z_conv alone", gain(lambda s: s.prior_conv), group=prior),
        Column("gain_prior_utt", "z_utt alone", gain(lambda s: s.prior_utt), group=prior),
        Column("share_prior", "of the error", share(lambda s: s.prior),
               group=prior, percent=True),
        Column("gain_shuffled", "both levels", gain(lambda s: s.shuffled), group=shuffled),
        Column("gain_shuffled_conv", "z_conv alone", gain(lambda s: s.shuffled_conv), group=shuffled),
        Column("gain_shuffled_utt", "z_utt alone", gain(lambda s: s.shuffled_utt), group=shuffled),
        Column("share_shuffled", "of the error",
               share(lambda s: s.shuffled), group=shuffled, percent=True),
    ]  # fmt: skip
    return _table(
        evidence,
        "sources",
        "What the decoder learns from z",
        "Nats per word. How much the reconstruction error rises when z is drawn from the prior, or taken "
        "from the posterior of another conversation, and that as a share of the error then. Where it does "
        "not rise, the decoder ignores z. One level alone is replaced where it says so.",
        columns,
    )


PROBED: dict[str, Callable[[Probe], float | None]] = {  # what probes read, as the table calls it
    "z_conv": lambda probe: probe.z_conv_drawn,
    "mean of z_conv": lambda probe: probe.z_conv,
    "z_utt": lambda probe: probe.z_utt_drawn,
    "mean of z_utt": lambda probe: probe.z_utt,
    "h_cxt": lambda probe: probe.h_cxt,
}


def _probes(evidence: Evidence) -> Table | None:
    chances: dict[str, float] = {}
    for run in evidence.results.runs:
        for name, probe in run.evaluation.diagnostics.probe.items():
            chances.setdefault(name, probe.chance)
    columns = []
    for name, chance in chances.items():

        def of_label(run: Run, name: str = name) -> Probe | None:
            return run.evaluation.diagnostics.probe.get(name)

        group = f"{name} (chance {100 * chance:.0f} %)"
        columns += [
            Column(f"{name}.{title}", title, _of(of_label, accuracy), group=group, percent=True)
            for title, accuracy in PROBED.items()
        ]
    return _table(
        evidence,
        "probes",
        "What can be read from the latents",
        "Accuracy on the test split of a linear classifier that reads a label from one draw of a latent "
        "variable, which is what its decoder hears; from the posterior mean, which may tell what no draw "
        "lets through; or from the context state. Chance is the share of the commonest label.",
        columns,
    )


def _differences(evidence: Evidence) -> Table | None:
    """VHCR + u.d (or the last system) minus each other one, with intervals."""
    systems = evidence.results.systems
    if len(systems) < 2:
        return None
    roles = {role: system for system, role in evidence.results.roles.items()}
    subject = roles.get("vhcr-ud", systems[-1])
    titles = {"nll_per_word": "NLL", "importance_weighted": "NLL, tightest", "kl_per_word": "KL"}
    for key in RESPONSE_MEASURES:
        metric, _, turns = key.rpartition("_")
        titles[key] = f"{metric.capitalize()}, {_group(int(turns.removesuffix('turn')))}"
    others = [system for system in systems if system != subject]
    found = {key: [evidence.difference(subject, other, key) for other in others] for key in titles}
    used = [key for key in titles if any(found[key])]
    if not used:
        return None
    rows = []
    for place, other in enumerate(others):
        each = [found[key][place] for key in used]
        cells = [Cell(signed(one) if one else NOTHING, best=bool(one and one.excludes_zero)) for one in each]
        rows.append(Row(other, f"vs {label(other)}", cells, []))
    columns = [
        Column(key, title, lambda _: None, group="Similarity" if key.endswith("turn") else "Nats per word")
        for key, title in titles.items()
        if key in used
    ]
    return Table(
        "differences",
        f"Differences: {label(subject)} minus each other system",
        "Paired over the same test conversations, with 95 % bootstrap intervals (seeds drawn too where there "
        "are several); bold where the interval leaves out zero.",
        columns,
        rows,
    )
