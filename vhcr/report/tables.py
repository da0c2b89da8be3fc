"""Tables 1 to 3 and those beyond the paper, as data; HTML, LaTeX and CSV are ways to write the same cells."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vhcr.report.claims import signed
from vhcr.report.evidence import Evidence
from vhcr.report.paper import PaperFigures
from vhcr.report.results import EMBEDDING_METRICS, Run, number
from vhcr.report.systems import label
from vhcr.results.statistics import MeanAndDeviation, mean_and_deviation

NOTHING = "–"


@dataclass(frozen=True)
class Column:
    """One measure: how a run's number is found, and how it is shown."""

    key: str
    title: str
    value: Callable[[Run], float | None]
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
        _likelihood_table(evidence, paper),
        _kl_table(evidence, paper),
        _response_table(evidence, paper),
        _difference_table(evidence),
        _serban_table(evidence),
        _text_table(evidence),
        _diversity_table(evidence),
        _diagnostics_table(evidence),
        _probe_table(evidence),
        _source_table(evidence),
    ]
    return [table for table in made if table is not None]


def latex(table: Table) -> str:
    r"""The table for a paper: booktabs, "mean \pm deviation", the paper's figures beside ours."""
    widths = [2 if column.paper else 1 for column in table.columns]
    lines = [r"% needs \usepackage{booktabs}", r"\begin{table}", r"\centering", r"\small"]
    lines += [rf"\begin{{tabular}}{{l{'r' * sum(widths)}}}", r"\toprule"]
    if any(group for group, _ in table.groups):
        lines.append(
            " & ".join(["", *(rf"\multicolumn{{{n}}}{{c}}{{{_tex(g)}}}" for g, n in table.groups)]) + r" \\"
        )
    heads = ["System"]
    for column in table.columns:
        heads += [_tex(column.title), "paper"] if column.paper else [_tex(column.title)]
    lines += [" & ".join(heads) + r" \\", r"\midrule"]
    for row in table.rows:
        fields = [_tex(row.label)]
        for cell in row.cells:
            number_text = rf"\mathbf{{{cell.text}}}" if cell.best else cell.text
            math = cell.prefix.replace("≤", r"\leq") + number_text
            math += rf" \pm {cell.deviation}" if cell.deviation else ""
            fields.append("--" if cell.text == NOTHING else f"${_tex_number(math)}$")
            if cell.paper is not None:
                fields.append("--" if cell.paper == NOTHING else f"${_tex_number(cell.paper)}$")
        lines.append(" & ".join(fields) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    lines += [rf"\caption{{{_tex(table.title)}. {_tex(table.caption)}}}", rf"\label{{tab:{table.id}}}"]
    return "\n".join([*lines, r"\end{table}", ""])


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


_TEX = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_", "$": r"\$", "{": r"\{"}
_TEX |= {
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "−": "$-$",
    "–": "--",
    "≤": r"$\leq$",
}
_TEX |= {"µ": r"$\mu$", "±": r"$\pm$", "…": r"\dots{}"}


def _tex(text: str) -> str:
    return "".join(_TEX.get(character, character) for character in text)


def _tex_number(text: str) -> str:
    for sign, tex in (("−", "-"), ("±", r"\pm"), ("%", r"\%"), (",", "{,}"), (" [", r"\,[")):
        text = text.replace(sign, tex)
    return text


def _simple(
    title: str, key: str, *, digits: int = 3, group: str = "", paper: bool = False, leaders: bool = False
) -> Column:
    return Column(
        key, title, lambda run: run.value(key), digits=digits, group=group, paper=paper, leaders=leaders
    )


def _latent(title: str, key: str, *, paper: bool) -> Column:
    """As ``_simple``, but nothing for a system that has no latent variable."""
    return Column(key, title, lambda run: run.value(key) if run.is_bound else None, paper=paper)


def _at(title: str, *path: str, digits: int = 3, group: str = "", percent: bool = False) -> Column:
    return Column(
        ".".join(path),
        title,
        lambda run: number(run.metrics, *path),
        digits=digits,
        group=group,
        percent=percent,
    )


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


_BOUNDED = ("nll_per_word", "perplexity", "subset", "importance_weighted")


def _deviation(column: Column, summary: MeanAndDeviation | None) -> str:
    return column.text(summary.deviation) if summary and summary.deviation is not None else ""


_BEST = (
    "Bold: the best, and whatever cannot be told apart from it (95 % paired bootstrap over test conversations"
    " and seeds)."
)


def _largest_bound(evidence: Evidence) -> int | None:
    """The largest K that any run has an importance-weighted bound for."""
    return max((k for run in evidence.results.runs for k in run.bounds), default=None)


def _likelihood_table(evidence: Evidence, paper: PaperFigures) -> Table | None:
    ours = paper.corpus is not None
    columns = [
        _simple("NLL", "nll_per_word", paper=ours, leaders=True),
        _latent("Recon.", "reconstruction_per_word", paper=ours),
        _latent("KL", "kl_per_word", paper=ours),
        Column("perplexity", "Perplexity", lambda run: run.value("perplexity"), digits=1),
    ]
    caption = "Nats per target word on the test split, EOS counted; ≤ marks an upper bound on the NLL. "
    largest = _largest_bound(evidence)
    if largest:
        group = "Subset of the test split"
        columns += [
            Column(
                "subset",
                "NLL, one sample",
                lambda run: number(run.metrics, "importance_bound_subset_nll_per_word"),
                group=group,
            ),
            Column(
                "importance_weighted",
                f"NLL, K = {largest}",
                lambda run: _tightest(run, largest),
                group=group,
                leaders=True,
            ),
        ]
        caption += (
            f"The importance-weighted bound with K = {largest} samples is tighter, and the fairer comparison "
            "with HRED's exact NLL; a plot shows how it converges. "
        )
    return _table(
        evidence,
        "table1",
        "Table 1: negative log-likelihood",
        f"{caption}{_other_words(evidence)}{_BEST} {paper.note(1)}".strip(),
        columns,
        paper=paper,
        table=1,
        bounds=True,
    )


def _other_words(evidence: Evidence) -> str:
    """Which systems' nats are of other words than the rest's, if any."""
    systems = evidence.results.systems
    apart = [system for system in systems if not evidence.usual_words(system)]
    if not apart:
        return ""
    return (
        f"{', '.join(map(label, apart))}: nats of other words (the reading `release` scores no first "
        f"utterance), "
        "so not compared with the others. "
    )


def _tightest(run: Run, samples: int) -> float | None:
    """The bound with that many samples; of an exact NLL, the NLL."""
    return run.bounds.get(samples) if run.is_bound else run.value("importance_weighted")


def _kl_table(evidence: Evidence, paper: PaperFigures) -> Table | None:
    ours = paper.corpus is not None
    columns = [
        _latent("Total", "kl_per_word", paper=ours),
        _latent("z_conv", "kl_conv_per_word", paper=ours),
        _latent("z_utt", "kl_utt_per_word", paper=ours),
        Column("share", "z_conv's share", _conv_share, percent=True),
    ]
    return _table(
        evidence,
        "table2",
        "Table 2: KL divergence by latent level",
        f"Nats per target word on the test split. {paper.note(2)}".strip(),
        columns,
        paper=paper,
        table=2,
    )


def _conv_share(run: Run) -> float | None:
    conv, total = run.value("kl_conv_per_word"), run.value("kl_per_word")
    return conv / total if conv and total else None


def _vectors(embeddings: Mapping[str, Any]) -> str:
    """Which word vectors our own scores come from: scores by other vectors are not comparable."""
    if not embeddings:
        return ""
    own = embeddings.get("source") == "corpus"
    named = (
        "word2vec trained on the training split"
        if own
        else str(embeddings.get("origin", "vectors from a file"))
    )
    coverage = number(embeddings, "token_coverage")
    known = "" if coverage is None else f", which know {coverage:.1%} of the test split's words"
    return f"Our vectors: {named}{known}."


def _response_table(evidence: Evidence, paper: PaperFigures) -> Table | None:
    ours = paper.corpus is not None
    columns = []
    for turns in ("1", "3"):
        group = f"{turns} turn{'s' if turns != '1' else ''}"
        columns += [
            _simple(metric.capitalize(), f"{metric}_{turns}turn", group=group, paper=ours, leaders=True)
            for metric in EMBEDDING_METRICS
        ]
        columns += [
            _at("Kept", "responses", turns, "num_pairs", digits=0, group=group),
            _at("Dropped", "responses", turns, "num_dropped", digits=0, group=group),
        ]
    return _table(
        evidence,
        "table3",
        "Table 3: embedding metrics",
        "Similarity of responses to what was really said, by the definition of the paper's program: greedy "
        "matching from each reference word; pairs without a known word on either side dropped. Mean over "
        f"turns. {_vectors(evidence.results.embeddings)} {_BEST} {paper.note(3)}".strip(),
        columns,
        paper=paper,
        table=3,
    )


def _serban_table(evidence: Evidence) -> Table | None:
    columns = []
    for turns, plural in (("1", ""), ("3", "s")):
        path, group = ("responses", turns, "serban"), f"{turns} turn{plural}"
        columns += [_at(metric.capitalize(), *path, metric, group=group) for metric in EMBEDDING_METRICS]
        columns += [
            _at("Kept", *path, "num_pairs", digits=0, group=group),
            _at("Dropped", *path, "num_dropped", digits=0, group=group),
        ]
    return _table(
        evidence,
        "serban",
        "Embedding metrics in the other definition in use",
        "Definition of the script of Serban et al. (2017): greedy matching both ways; a response without a "
        "known word scores 0. Not comparable with Table 3.",
        columns,
    )


def _text_table(evidence: Evidence) -> Table | None:
    columns = []
    for turns, plural in (("1", ""), ("3", "s")):
        group = f"{turns} turn{plural}"
        columns += [
            _at("BLEU", "responses", turns, "bleu", digits=2, group=group),
            _at("Distinct-1", "responses", turns, "distinct_1", digits=4, group=group),
            _at("Distinct-2", "responses", turns, "distinct_2", digits=4, group=group),
            _at("Entropy", "responses", turns, "entropy", digits=2, group=group),
            _at("Length ratio", "responses", turns, "length_ratio", digits=2, group=group),
            _at("Repetition", "responses", turns, "repetition", group=group, percent=True),
        ]
    return _table(
        evidence,
        "text",
        "Properties of responses beyond the paper",
        "BLEU-4 in points; distinct n-grams of all n-grams; entropy of the words in nats; words of the "
        "responses by words of the references; share of bigrams that a response repeats.",
        columns,
    )


def _diagnostics_table(evidence: Evidence) -> Table | None:
    columns = [
        _at("z_conv", "diagnostics", "active_units_conv", digits=0, group="Active units"),
        _at("z_utt", "diagnostics", "active_units_utt", digits=0, group="Active units"),
        _at("E[var] / Var(µ)", "diagnostics", "prior_variance_ratio", group="Prior of z_utt"),
    ]
    for level in ("conv", "utt"):
        group = f"I(x; z_{level}), nats"
        path = ("diagnostics", f"mutual_information_{level}")
        columns += [
            Column(f"mutual_information_{level}", "estimate", _mutual_information(level), 2, group),
            _at("std. error", *path, "standard_error", digits=2, group=group),
            Column(f"most_{level}", "at most", _most_information(level), 2, group),
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


def _mutual_information(level: str) -> Callable[[Run], float | None]:
    """Older results hold the estimate alone, newer ones its standard error too."""
    path = ("diagnostics", f"mutual_information_{level}")

    def value(run: Run) -> float | None:
        alone = number(run.metrics, *path)
        return number(run.metrics, *path, "estimate") if alone is None else alone

    return value


def _most_information(level: str) -> Callable[[Run], float | None]:
    def value(run: Run) -> float | None:
        count = number(run.metrics, "diagnostics", f"mutual_information_{level}", "num_posteriors")
        return math.log(count) if count else None

    return value


def _source_table(evidence: Evidence) -> Table | None:
    path = ("diagnostics", "reconstruction_per_word_by_source")

    def gain(source: str) -> Callable[[Run], float | None]:
        def value(run: Run) -> float | None:
            own, other = number(run.metrics, *path, "posterior"), number(run.metrics, *path, source)
            return other - own if own is not None and other is not None else None

        return value

    def share(source: str) -> Callable[[Run], float | None]:
        def value(run: Run) -> float | None:
            gained, other = gain(source)(run), number(run.metrics, *path, source)
            return gained / other if gained is not None and other else None

        return value

    columns = [_at("its posterior", *path, "posterior", group="Reconstruction error")]
    for source, title in (("prior", "the prior"), ("shuffled", "another's posterior")):
        group = f"Gain over z from {title}"
        columns += [
            Column(f"gain_{source}", "both levels", gain(source), group=group),
            Column(f"gain_{source}_conv", "z_conv alone", gain(f"{source}_conv"), group=group),
            Column(f"gain_{source}_utt", "z_utt alone", gain(f"{source}_utt"), group=group),
            Column(f"share_{source}", "of the error", share(source), group=group, percent=True),
        ]
    return _table(
        evidence,
        "sources",
        "What the decoder learns from z",
        "Nats per word. How much the reconstruction error rises when z is drawn from the prior, or taken "
        "from the posterior of another conversation, and that as a share of the error then. Where it does "
        "not rise, the decoder ignores z. One level alone is replaced where it says so.",
        columns,
    )


def _diversity_table(evidence: Evidence) -> Table | None:
    ways: dict[str, None] = {}
    for run in evidence.results.runs:
        found = run.metrics.get("diversity")
        entries = found.items() if isinstance(found, Mapping) else ()
        ways.update(dict.fromkeys(name for name, entry in entries if isinstance(entry, Mapping)))
    columns = []
    for way in ways:
        group = "every word sampled" if way == "sample" else f"{way} decoding"
        columns += [
            _at("Embedding diversity", "diversity", way, "embedding_diversity", group=group),
            _at("Different", "diversity", way, "distinct_responses", group=group, percent=True),
            _at("Distinct-1", "diversity", way, "distinct_1", digits=4, group=group),
            _at("Distinct-2", "diversity", way, "distinct_2", digits=4, group=group),
        ]
    return _table(
        evidence,
        "diversity",
        "How much several responses to one context differ",
        "1 − mean cosine between two responses to the same context; share of responses that are different "
        "ones. By greedy or beam decoding, all that differs comes from the latents.",
        columns,
    )


PROBED = {  # what probes read, and what the table calls it
    "z_conv_drawn": "z_conv",
    "z_conv": "mean of z_conv",
    "z_utt_drawn": "z_utt",
    "z_utt": "mean of z_utt",
    "h_cxt": "h_cxt",
}


def _probe_table(evidence: Evidence) -> Table | None:
    columns = []
    for name in _probe_names(evidence):
        chances = [
            number(run.metrics, "diagnostics", "probe", name, "chance") for run in evidence.results.runs
        ]
        chance = next((value for value in chances if value is not None), None)
        group = name if chance is None else f"{name} (chance {100 * chance:.0f} %)"
        columns += [
            _at(title, "diagnostics", "probe", name, source, group=group, percent=True)
            for source, title in PROBED.items()
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


def _probe_names(evidence: Evidence) -> list[str]:
    names: dict[str, None] = {}
    for run in evidence.results.runs:
        diagnostics = run.metrics.get("diagnostics")
        probe = diagnostics.get("probe") if isinstance(diagnostics, dict) else None
        names.update(dict.fromkeys(probe if isinstance(probe, dict) else ()))
    return list(names)


def _difference_table(evidence: Evidence) -> Table | None:
    """VHCR + u.d (or the last system) minus each other one, with intervals."""
    systems = evidence.results.systems
    if len(systems) < 2:
        return None
    roles = {role: system for system, role in evidence.results.roles.items()}
    subject = roles.get("vhcr-ud", systems[-1])
    keys = [
        "nll_per_word",
        "importance_weighted",
        "kl_per_word",
        *(f"{m}_{n}turn" for n in (1, 3) for m in EMBEDDING_METRICS),
    ]
    titles = [
        "NLL",
        "NLL, tightest",
        "KL",
        *(f"{m.capitalize()}, {n}" for n in ("1 turn", "3 turns") for m in EMBEDDING_METRICS),
    ]
    others = [system for system in systems if system != subject]
    found = {key: [evidence.difference(subject, other, key) for other in others] for key in keys}
    used = [key for key in keys if any(found[key])]
    if not used:
        return None
    rows = []
    for place, other in enumerate(others):
        each = [found[key][place] for key in used]
        cells = [Cell(signed(one) if one else NOTHING, best=bool(one and one.excludes_zero)) for one in each]
        rows.append(Row(other, f"vs {label(other)}", cells, []))
    columns = [
        Column(key, title, lambda _: None, group="Similarity" if key.endswith("turn") else "Nats per word")
        for key, title in zip(keys, titles, strict=True)
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
