"""The page: one HTML file that loads nothing, from results, tables, figures and claims."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from vhcr.files import flatten
from vhcr.report.claims import Claim, Verdict, claims
from vhcr.report.evidence import Evidence
from vhcr.report.paper import PaperFigures
from vhcr.report.plots import Figure, colours, dash, figures
from vhcr.report.results import Json, Results, Run, TalkKey
from vhcr.report.settings import partings
from vhcr.report.systems import label
from vhcr.report.tables import NOTHING, Table, tables

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


def assemble(results: Results, *, num_samples: int, seed: int) -> Report:
    """Tables, figures and claims of ``results``; intervals from ``num_samples`` resamples by ``seed``."""
    evidence = Evidence(results, num_samples=num_samples, seed=seed)
    paper = PaperFigures(results.paper_corpus)
    return Report(
        results, evidence, paper, tables(evidence, paper), figures(evidence, paper), claims(evidence)
    )


def render(report: Report, *, commit: str | None = None) -> str:
    """The HTML page; ``commit`` is that of the code which makes it."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["spaced"] = lambda text: str(text).replace("_", " ")
    environment.filters["plain"] = plain
    results = report.results
    palette = colours(results.systems)
    chats = _chats(results)
    validation = _validation(results.validation)
    tally = Counter(claim.finding.verdict for claim in report.claims)
    sections = [("summary", "Summary"), ("tables", "Tables"), ("plots", "Plots")]
    sections += [("conversations", "Conversations")] if chats else []
    sections += [("control", "Control by z_conv")] if (steered := _steered(results)) else []
    sections += [("data", "Data"), ("provenance", "Settings and provenance")]
    return environment.from_string(_file("page.html.jinja")).render(
        title=results.title,
        lead=_lead(results),
        sections=sections,
        style=_raw(_file("page.css")),
        script=_raw(_file("charts.js")),
        colours=palette,
        index={system: position for position, system in enumerate(palette)},
        dashes={system: dash(system) for system in palette},
        findings=_findings(report.evidence),
        partings=partings(results.runs),
        doubles=_doubles(results),
        claims=report.claims,
        tally=[(verdict, tally[verdict]) for verdict in MARKS if tally[verdict]],
        marks=MARKS,
        several_seeds=any(len(results.of(system)) > 1 for system in results.systems),
        paper_name=report.paper.name,
        paper_source=report.paper.source(),
        tables=report.tables,
        figures=report.figures,
        figure_data=_figure_data(report.figures, palette),
        chats=chats,
        chat_systems=[
            system for system in results.systems if any(run.responses for run in results.of(system))
        ],
        steered=steered,
        steered_systems=[each["system"] for each in steered],
        protocol_sentence=_protocol_sentence(results),
        splits=_splits(results),
        validation=validation,
        leakage=_leakage(results.tokenisation.get("leakage")),
        tokenisation={
            name: value for name, value in results.tokenisation.items() if name not in ("leakage", "splits")
        },
        embeddings=results.embeddings,
        runs=_runs(results),
        cost=_cost(results),
        left_out=[
            {"label": label(run.system), "seed": run.seed, "reason": run.reason} for run in results.left_out
        ],
        provenance=_provenance(results),
        settings=_settings(results),
        commit=commit,
    )


def plain(value: object) -> str:
    """A value as people read it."""
    if value is None or value == "":
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace("-", "−")
    if isinstance(value, float):
        return (f"{value:,.0f}" if value.is_integer() and abs(value) >= 10 else f"{value:.4g}").replace(
            "-", "−"
        )
    if isinstance(value, Mapping):
        return ", ".join(f"{str(name).replace('_', ' ')} {plain(item)}" for name, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(plain, value)) or NOTHING
    return str(value)


def _file(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _raw(text: str) -> Any:
    import markupsafe

    return markupsafe.Markup(text)  # our own file


def _figure_data(made: Sequence[Figure], palette: Mapping[str, Any]) -> str:
    """JSON for charts.js, safe inside a script element."""
    labels = {
        system: {"label": label(system), "index": i, "dash": dash(system)} for i, system in enumerate(palette)
    }
    data = {"figures": [figure.data() for figure in made], "labels": labels}
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def _lead(results: Results) -> str:
    systems, runs = len(results.systems), len(results.runs)
    text = f"{systems} system{'s' if systems != 1 else ''}, {runs} evaluated run{'s' if runs != 1 else ''}"
    tests = results.manifest.get("splits", {}).get("test", {})
    if tests:
        text += (
            f", {plain(tests.get('conversations'))} test conversations ({plain(tests.get('words'))} words)"
        )
    data_hash = results.manifest.get("data_hash")
    return f"{text}. Data {str(data_hash)[:12]}." if data_hash else f"{text}."


def _findings(evidence: Evidence) -> list[str]:
    """The two things one wants to know first: who predicts best, and whose latents are used."""
    systems = [system for system in evidence.results.systems if evidence.usual_words(system)]
    means = {s: m.mean for s in systems if (m := evidence.mean(s, "nll_per_word"))}
    sentences = []
    if means:
        best = min(means, key=lambda system: means[system])
        tied = sorted(evidence.leaders("nll_per_word", systems) - {best})
        text = f"{label(best)} has the lowest NLL or bound, {means[best]:.3f} nats per word"
        if tied:
            text += f"; {' and '.join(map(label, tied))} cannot be told apart from it"
        sentences.append(text + ".")
    kls = {s: m.mean for s in evidence.results.systems if (m := evidence.mean(s, "kl_per_word"))}
    kls = {system: kl for system, kl in kls.items() if system != "hred"}
    if kls:
        ordered = sorted(kls, key=lambda system: -kls[system])
        shown = ", ".join(f"{label(system)} {kls[system]:.3f}" for system in ordered)
        sentences.append(f"KL divergence on the test split, nats per word: {shown}.")
    return sentences


def _doubles(results: Results) -> list[str]:
    """Where several systems are one of the paper's: which of them its claims are about."""
    told = []
    for system, role in results.roles.items():
        others = [name for name, kind in results.kinds.items() if kind == role and name != system]
        if others:
            told.append(f"{label(role)} is {label(system)} here, not {' or '.join(map(label, others))}")
    return told


def _chats(results: Results) -> list[dict[str, Any]]:
    """Per context, what each system said; of a system with several seeds, the first."""
    speakers = {system: run for system in results.systems for run in results.of(system)[:1] if run.responses}
    if not speakers:
        return []
    lengths = sorted({turns for run in speakers.values() for turns, _ in run.responses})
    shortest, longest = lengths[0], lengths[-1]
    ids = list(
        dict.fromkeys(id for run in speakers.values() for turns, id in run.responses if turns == shortest)
    )
    chats = []
    for id in ids:
        heard = {
            s: run.responses[shortest, id] for s, run in speakers.items() if (shortest, id) in run.responses
        }
        first = next(iter(heard.values()))
        chat: dict[str, Any] = {
            "id": id,
            "context": first.context,
            "reference": first.references[0],
            "answers": [
                {"system": system, "label": label(system), "text": response.responses[0]}
                for system, response in heard.items()
            ],
            "longer": None,
        }
        long = {
            s: run.responses[longest, id] for s, run in speakers.items() if (longest, id) in run.responses
        }
        if longest > shortest and long:
            chat["longer"] = {
                "turns": longest,
                "references": next(iter(long.values())).references,
                "answers": [
                    {"system": system, "label": label(system), "texts": response.responses}
                    for system, response in long.items()
                ],
            }
        chats.append(chat)
    return chats


def _steered(results: Results) -> list[dict[str, Any]]:
    """Tables 6 and 7 of each system with z_conv, its first seed; the paper's own system first."""
    subject = {role: system for system, role in results.roles.items()}.get("vhcr-ud")
    made = []
    for system in sorted(results.systems, key=lambda name: name != subject):
        run = next((run for run in results.of(system) if run.talks), None)
        if run is None:
            continue
        groups: dict[str, list[dict[str, Any]]] = {"interpolation": [], "fixed": []}
        for (table, path, example), talks in sorted(run.talks.items(), key=_by_example):
            different = len({talk.turns for talk in talks})
            groups.setdefault(table, []).append(
                {"path": path, "number": example + 1, "talks": talks, "different": different}
            )
        evaluation = (run.provenance.get("protocol") or {}).get("evaluation") or {}
        made.append(
            {
                "system": system,
                "name": run.name,
                "label": label(system),
                "drawn_by": evaluation.get("seed"),
                **groups,
            }
        )
    return made


def _by_example(item: tuple[TalkKey, Any]) -> tuple[str, int, str]:
    (table, path, example), _ = item
    return table, example, path


def _protocol_sentence(results: Results) -> str:
    for run in results.runs:
        generation = (run.provenance.get("protocol") or {}).get("generation")
        if isinstance(generation, Mapping) and "strategy" in generation:
            return f", by {generation['strategy']} decoding"
    return ""


def _splits(results: Results) -> dict[str, Any] | None:
    splits = results.tokenisation.get("splits") or results.manifest.get("splits")
    if not isinstance(splits, Mapping) or not splits:
        return None
    columns = list(dict.fromkeys(name for sizes in splits.values() for name in sizes))
    return {
        "columns": columns,
        "rows": [(split, [sizes.get(name) for name in columns]) for split, sizes in splits.items()],
    }


def _leakage(tree: Any) -> dict[str, Any] | None:
    """One row per kind of content that recurs; the tree itself where it is not of that form."""
    if not isinstance(tree, Mapping) or not tree:
        return None
    if not all(isinstance(entry, Mapping) for entry in tree.values()):
        return {"rows": [], "tree": tree}
    columns = list(dict.fromkeys(name for entry in tree.values() for name in entry))
    rows = [(kind, [_share(entry.get(name)) for name in columns]) for kind, entry in tree.items()]
    return {"columns": columns, "rows": rows, "tree": tree}


def _share(value: Any) -> Any:
    """ "12 (1.5 %)" for a count with its fraction."""
    if isinstance(value, Mapping) and {"conversations", "fraction"} <= set(value):
        return f"{plain(value['conversations'])} ({100 * value['fraction']:.1f} %)"
    return value


def _validation(validation: Json) -> dict[str, Any] | None:
    found = validation.get("results")
    if not isinstance(found, list):
        return None
    keys = (
        "success",
        "expectation",
        "explanation",
        "table",
        "column",
        "observed",
        "unexpected_count",
        "examples",
    )
    ordered = sorted(found, key=lambda item: bool(item.get("success")))
    return {
        "success": bool(validation.get("success")),
        "failed": sum(not item.get("success") for item in found),
        "results": [{key: item.get(key) for key in keys} for item in ordered],
    }


def _runs(results: Results) -> dict[str, Any]:
    columns = [
        "Trained at",
        "Evaluated at",
        "On",
        "Training time",
        "Evaluated",
        "In",
        "Parameters",
        "torch",
        "Metrics",
        "MLflow run",
    ]
    rows = []
    for run in results.runs:
        machine = run.training.get("machine")
        device = str(run.training.get("device") or NOTHING)
        if device == "cpu" and isinstance(machine, Mapping):
            device = f"{machine.get('cores', '?')} x {machine.get('cpu', 'CPU')}"
        version = run.metrics.get("metric_version")
        rows.append(
            {
                "system": run.system,
                "name": run.name,
                "cells": [
                    _commit(run.training),
                    _commit(run.provenance),
                    device,
                    _took(run.training),
                    str(run.provenance.get("finished_at") or NOTHING)
                    .replace("T", " ")
                    .removesuffix("+00:00"),
                    _took(run.provenance),
                    plain(run.training.get("num_parameters")),
                    plain(run.training.get("torch_version")),
                    f"version {version}" if version is not None else NOTHING,
                    run.mlflow_run_id or NOTHING,
                ],
            }
        )
    return {"columns": columns, "rows": rows}


def _commit(tree: Json) -> str:
    commit = tree.get("code_version")
    if not commit:
        return NOTHING
    return f"{str(commit)[:10]}{', with changes' if tree.get('dirty') else ''}"


def _took(tree: Json) -> str:
    seconds = tree.get("seconds")
    return _duration(seconds) if isinstance(seconds, (int, float)) else NOTHING


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
    )


def _cost(results: Results) -> str:
    parts = []
    for what, trees in (
        ("Training", [run.training for run in results.runs]),
        ("evaluation", [run.provenance for run in results.runs]),
    ):
        known = [tree["seconds"] for tree in trees if isinstance(tree.get("seconds"), (int, float))]
        if known:
            parts.append(
                f"{what} of the {len(known)} runs that record it took {_duration(sum(known))} together"
            )
    return "; ".join(parts) + "." if parts else ""


def _same(runs: Sequence[Run], tree: str, key: str) -> Any:
    """What all runs record under a key, or None where they differ."""
    found = [getattr(run, tree).get(key) for run in runs]
    return found[0] if found and all(value == found[0] for value in found) else None


def _provenance(results: Results) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    data = {
        name: results.manifest[name]
        for name in ("corpus", "data_hash", "vocabulary_hash", "tokenisation")
        if name in results.manifest
    }
    for title, tree in (
        ("Data", data),
        ("Protocol of the evaluation", _same(results.runs, "provenance", "protocol")),
        ("Versions at evaluation", _same(results.runs, "provenance", "versions")),
        ("Machine of the evaluation", _same(results.runs, "provenance", "machine")),
    ):
        if isinstance(tree, Mapping) and tree:
            shown[title] = tree
    return shown


def _settings(results: Results) -> dict[str, Any]:
    """Parameters by whether all systems share them; a system's are those of its first run."""
    firsts = {system: results.of(system)[0] for system in results.systems}
    params = {system: flatten(run.training.get("params") or {}) for system, run in firsts.items()}
    names = list(dict.fromkeys(name for values in params.values() for name in values))
    shared, different = {}, []
    for name in names:
        values = [own.get(name) for own in params.values()]
        if all(value == values[0] for value in values):
            shared[name] = values[0]
        else:
            different.append((name, values))
    return {"systems": list(map(label, params)), "different": different, "shared": shared}
