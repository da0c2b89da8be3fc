"""The page: one HTML file that loads nothing, from results, tables, figures and claims."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pydantic import JsonValue

from vhcr.evaluation.records import Parameters
from vhcr.files import flatten
from vhcr.report.charts import library, page_style, panel_spec
from vhcr.report.claims import Claim, Verdict, claims
from vhcr.report.figures import Figure, colours, dash, figures
from vhcr.report.tables import Table, tables
from vhcr.report.templates import NOTHING, file, plain, rendered
from vhcr.results.compare import Evidence
from vhcr.results.labels import label, partings
from vhcr.results.paper import PaperFigures
from vhcr.results.records import Data, Made
from vhcr.results.runs import Response, Results, Run, Talk
from vhcr.results.use import AT_FLOOR, Level, free, levels, use

MARKS: dict[Verdict, str] = {"supported": "✓", "not supported": "✗", "undecided": "?", "not run": NOTHING}


@dataclass(frozen=True)
class Report:
    """All that a page shows, and what is written beside it."""

    results: Results
    evidence: Evidence
    paper: PaperFigures
    tables: list[Table]
    figures: list[Figure]
    claims: list[Claim]


class Grid(NamedTuple):
    """A plain table: headings, and rows that begin with what they are of."""

    heads: list[str]
    rows: list[list[JsonValue]]


class Chat(NamedTuple):
    """What each system said in one context, by the shortest and by the longest continuation."""

    id: str
    said: dict[str, Response]
    longer: dict[str, Response]


class Talks(NamedTuple):
    """Conversations of one example of Table 6 or 7."""

    path: str
    number: int
    talks: tuple[Talk, ...]
    different: int


class Steered(NamedTuple):
    """Tables 6 and 7 of one run."""

    system: str
    name: str
    drawn_by: JsonValue  # the evaluation's seed
    interpolation: list[Talks]
    fixed: list[Talks]


def assemble(results: Results, *, num_samples: int, seed: int) -> Report:
    """Tables, figures and claims of ``results``; intervals from ``num_samples`` resamples by ``seed``."""
    evidence = Evidence(results, num_samples=num_samples, seed=seed)
    paper = PaperFigures(results.data.paper_corpus)
    return Report(
        results, evidence, paper, tables(evidence, paper), figures(evidence, paper), claims(evidence)
    )


def render(report: Report, *, commit: str | None = None) -> str:
    """The HTML page; ``commit`` is that of the code which makes it."""
    results, data = report.results, report.results.data
    palette = colours(results.systems)
    chats, steered = _chats(results), _steered(results)
    tally = Counter(claim.finding.verdict for claim in report.claims)
    sections = [("summary", "Summary"), ("tables", "Tables"), ("plots", "Plots")]
    sections += [("conversations", "Conversations")] if chats else []
    sections += [("control", "Control by z_conv")] if steered else []
    topics = _topics(results)
    sections += [("topics", "Topics of z_conv")] if topics else []
    sections += [("data", "Data"), ("provenance", "Settings and provenance")]
    different, shared = _settings(results)
    return rendered(
        "page.html.jinja",
        report=report,
        results=results,
        lead=_lead(results),
        sections=sections,
        style=file("page.css"),
        script=file("page.js"),
        library=library(),
        specs=_specs(report),
        colours=palette,
        index={system: position for position, system in enumerate(palette)},
        dash=dash,
        label=label,
        findings=_findings(report.evidence),
        account=data.account,
        knows=_knows(results) if data.account is not None else [],
        partings=partings({run.name: run.training.params for run in results.runs}),
        doubles=_doubles(results),
        tally=[(verdict, tally[verdict]) for verdict in MARKS if tally[verdict]],
        marks=MARKS,
        several_seeds=any(len(results.of(system)) > 1 for system in results.systems),
        chats=chats,
        chat_systems=[
            system for system in results.systems if any(run.responses for run in results.of(system))
        ],
        steered=steered,
        topics=topics,
        protocol_sentence=_protocol_sentence(results),
        splits=_sizes(data.tokenisation.splits or data.manifest.splits, "Split"),
        validation=data.validation,
        leakage=_sizes(_leakage(data), "What recurs"),
        tokenisation={
            name: value
            for name, value in data.tokenisation.as_json().items()
            if name not in ("leakage", "splits")
        },
        embeddings=data.embeddings.as_json() if data.embeddings else {},
        runs=_runs(results),
        cost=_cost(results),
        provenance=_provenance(results),
        different=different,
        shared=shared,
        commit=commit,
    )


def _specs(report: Report) -> str:
    """JSON for page.js, safe inside a script element."""
    style = page_style(report.results.systems)
    panels = {
        f"{figure.id}-{i}": panel_spec(figure, panel, style)
        for figure in report.figures
        for i, panel in enumerate(figure.panels)
    }
    data = {"panels": panels, "config": style.config()}
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def _lead(results: Results) -> str:
    systems, runs = len(results.systems), len(results.runs)
    text = f"{systems} system{'s' if systems != 1 else ''}, {runs} evaluated run{'s' if runs != 1 else ''}"
    tests = results.data.manifest.splits.get("test")
    if tests:
        conversations, words = int(tests["conversations"]), int(tests["words"])
        text += f", {plain(conversations)} test conversations ({plain(words)} words)"
    return f"{text}. Data {results.data.manifest.data_hash[:12]}."


def _findings(evidence: Evidence) -> list[str]:
    """The two things one wants to know first: who predicts best, and whose latents are used."""
    systems = [system for system in evidence.results.systems if evidence.usual_words(system)]
    means = {s: m.mean for s in systems if (m := evidence.mean(s, "nll_per_word"))}
    sentences = []
    if means:
        best = min(means, key=lambda system: means[system])
        tied = sorted(evidence.leaders("nll_per_word", systems) - {best})
        text = f"{label(best)} has the lowest NLL or bound, {means[best]:.3f} nats per word"
        if evidence.results.data.account is not None:
            text += f" (a perplexity of {plain(round(math.exp(means[best])))})"
        if tied:
            text += f"; {' and '.join(map(label, tied))} cannot be told apart from it"
        sentences.append(text + ".")
    kls = {s: m.mean for s in evidence.results.systems if (m := evidence.mean(s, "kl_per_word"))}
    kls = {system: kl for system, kl in kls.items() if system != "hred"}
    if kls:
        ordered = sorted(kls, key=lambda system: -kls[system])
        shown = ", ".join(f"{label(system)} {kls[system]:.3f}" for system in ordered)
        sentences.append(f"KL divergence on the test split, nats per word: {shown}.")
    return sentences + _at_floor(evidence.results)


def _at_floor(results: Results) -> list[str]:
    """Where a KL is the free bits of its training: that it is not lower says nothing."""
    told = []
    each: dict[Level, str] = {"conv": "a conversation", "utt": "an utterance"}
    for level, one in each.items():
        found = {run.name: kl for run in results.runs if (kl := free(run, level)) is not None}
        low = [
            f"{name} {kl:.2f} ({least:.2f} free)"
            for name, (kl, least) in found.items()
            if kl <= AT_FLOOR * least
        ]
        if low:
            told.append(
                f"The KL of z_{level} sits at its free bits, nats {one}: {', '.join(low)}. So much cost "
                "nothing in training; it says nothing of what the data asked for."
            )
    return told


def _knows(results: Results) -> list[str]:
    """What z_conv knows of the labels that were given, and whether the decoder heeds it."""
    told = []
    for run in results.runs:
        if "conv" not in levels(run):
            continue
        probes = run.evaluation.diagnostics.probe
        read = [
            f"{name} {100 * probe.z_conv_drawn:.0f} % ({100 * probe.chance:.0f} % by the commonest)"
            for name, probe in probes.items()
            if probe.z_conv_drawn is not None
        ]
        labels = f"of the labels it tells {', '.join(read)}" if read else "no labels were given to tell"
        told.append(f"{run.name}: {labels}; {use(run, 'conv')}.")
    return told or ["No system here has a z_conv."]


def _doubles(results: Results) -> list[str]:
    """Where several systems are one of the paper's: which of them its claims are about."""
    told = []
    for system, role in results.roles.items():
        others = [name for name, kind in results.kinds.items() if kind == role and name != system]
        if others:
            told.append(f"{label(role)} is {label(system)} here, not {' or '.join(map(label, others))}")
    return told


def _chats(results: Results) -> list[Chat]:
    """Per context, what each system said; of a system with several seeds, the first."""
    speakers = {system: run for system in results.systems for run in results.of(system)[:1] if run.responses}
    places = list(dict.fromkeys(place for run in speakers.values() for place in run.responses))
    lengths = sorted({turns for turns, _ in places})

    def said(turns: int, id: str) -> dict[str, Response]:
        found = {system: run.responses.get((turns, id)) for system, run in speakers.items()}
        return {system: response for system, response in found.items() if response is not None}

    return [
        Chat(id, said(turns, id), said(lengths[-1], id) if lengths[-1] > turns else {})
        for turns, id in places
        if turns == lengths[0]
    ]


def _steered(results: Results) -> list[Steered]:
    """Tables 6 and 7 of each system with z_conv, its first seed; the paper's own system first."""
    subject = {role: system for system, role in results.roles.items()}.get("vhcr-ud")
    made = []
    for system in sorted(results.systems, key=lambda name: name != subject):
        run = next((run for run in results.of(system) if run.talks), None)
        if run is None:
            continue
        tables: dict[str, list[Talks]] = {"interpolation": [], "fixed": []}
        for (table, path, example), talks in sorted(
            run.talks.items(), key=lambda item: (item[0][0], item[0][2], item[0][1])
        ):
            if table in tables:
                different = len({talk.turns for talk in talks})
                tables[table].append(Talks(path, example + 1, talks, different))
        seed = run.evaluated.protocol.evaluation.get("seed")
        made.append(Steered(system, run.name, seed, tables["interpolation"], tables["fixed"]))
    return made


def _topics(results: Results) -> dict[str, Grid]:
    """By run, the first of each system with z_conv: its topics, largest first."""
    heads = ["Topic", "Conversations", "Words that set it apart", "Its most typical conversation begins"]
    found = {}
    for system in results.systems:
        run = next((run for run in results.of(system) if run.map is not None), None)
        if run is not None and run.map is not None:
            sizes = Counter(run.map.topic)
            rows: list[list[JsonValue]] = [
                [number, sizes[number], ", ".join(words), run.map.texts[first].split("\n")[0]]
                for number, (words, first) in enumerate(zip(run.map.topics, run.map.typical, strict=True))
            ]
            found[run.name] = Grid(heads, rows)
    return found


def _protocol_sentence(results: Results) -> str:
    strategies = [run.evaluated.protocol.generation.get("strategy") for run in results.runs]
    known = next((strategy for strategy in strategies if strategy), None)
    return f", by {known} decoding" if known else ""


def _sizes(tree: Mapping[str, Mapping[str, JsonValue]], of: str) -> Grid | None:
    """One row per key of ``tree``, one column per key of its values."""
    if not tree:
        return None
    columns = list(dict.fromkeys(name for values in tree.values() for name in values))
    rows: list[list[JsonValue]] = [
        [name.replace("_", " "), *(values.get(column) for column in columns)] for name, values in tree.items()
    ]
    return Grid([of, *(column.replace("_", " ") for column in columns)], rows)


def _leakage(data: Data) -> dict[str, dict[str, JsonValue]]:
    """Shares as people read them: "12 (1.5 %)" for a count with its fraction."""
    return {
        kind: {name: _share(value) for name, value in entry.items()}
        for kind, entry in data.tokenisation.leakage.items()
    }


def _share(value: JsonValue) -> JsonValue:
    if isinstance(value, dict):
        count, fraction = value.get("conversations"), value.get("fraction")
        if isinstance(fraction, (int, float)):
            return f"{plain(count)} ({100 * fraction:.1f} %)"
    return value


def _runs(results: Results) -> Grid:
    heads = ["Run", "Trained at", "Evaluated at", "On", "Training time", "Evaluated", "In", "Parameters",
             "torch", "Metrics", "MLflow run"]  # fmt: skip
    rows: list[list[JsonValue]] = [
        [
            run.name,
            run.training.commit,
            run.evaluated.commit,
            run.training.processor,
            _took(run.training),
            run.evaluated.finished_at.replace("T", " ").removesuffix("+00:00"),
            _took(run.evaluated),
            run.training.num_parameters,
            run.training.torch_version,
            f"version {run.evaluation.metric_version}",
            run.evaluated.mlflow_run_id or run.training.mlflow_run_id,
        ]
        for run in results.runs
    ]
    return Grid(heads, rows)


def _took(made: Made) -> str | None:
    return None if made.seconds is None else _duration(made.seconds)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
    )


def _cost(results: Results) -> str:
    parts = []
    made: dict[str, list[Made]] = {
        "Training": [run.training for run in results.runs],
        "evaluation": [run.evaluated for run in results.runs],
    }
    for what, each in made.items():
        known = [one.seconds for one in each if one.seconds is not None]
        if known:
            parts.append(
                f"{what} of the {len(known)} runs that record it took {_duration(sum(known))} together"
            )
    return "; ".join(parts) + "." if parts else ""


def _provenance(results: Results) -> dict[str, Mapping[str, JsonValue]]:
    """What is shown of the data, and what all runs record alike of their evaluation."""
    manifest = results.data.manifest.as_json()
    shown: dict[str, Mapping[str, JsonValue]] = {
        "Data": {name: value for name, value in manifest.items() if name != "splits" and value}
    }

    def same(title: str, found: Sequence[Parameters]) -> None:
        if found and found[0] and all(each == found[0] for each in found):
            shown[title] = found[0]

    runs: Sequence[Run] = results.runs
    same("Protocol of the evaluation", [run.evaluated.protocol.as_json() for run in runs])
    same("Versions at evaluation", [dict(run.evaluated.versions) for run in runs])
    machines = [run.evaluated.machine for run in runs]
    same("Machine of the evaluation", [machine.as_json() if machine else {} for machine in machines])
    return shown


def _settings(results: Results) -> tuple[Grid, Parameters]:
    """Parameters that tell systems apart, and those that all share; a system's are those of its first run."""
    firsts = {system: results.of(system)[0] for system in results.systems}
    params = [flatten(dict(run.training.params)) for run in firsts.values()]
    shared: Parameters = {}
    rows: list[list[JsonValue]] = []
    for name in dict.fromkeys(name for values in params for name in values):
        values = [own.get(name) for own in params]
        if all(value == values[0] for value in values):
            shared[name] = values[0]
        else:
            rows.append([name, *values])
    return Grid(["Setting", *map(label, firsts)], rows), shared
