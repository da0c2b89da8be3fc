"""The card of a registered version: what it is, what it saw, how good it is and what it is not good for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vhcr.report.results import number, read_sums
from vhcr.report.systems import label
from vhcr.results.statistics import Interval, ratio_interval

Json = Mapping[str, Any]

ROWS = {  # table key -> what it says
    "nll_per_word": "bound on −log p, nats per word (lower is better)",
    "reconstruction_per_word": "reconstruction error, nats per word",
    "kl_conv_per_word": "KL of z_conv, nats per word",
    "kl_utt_per_word": "KL of z_utt, nats per word",
    "average_1turn": "embedding average, 1 turn (higher is better)",
    "extrema_1turn": "embedding extrema, 1 turn",
    "greedy_1turn": "embedding greedy, 1 turn",
}


def intervals(evaluated: Path, *, num_samples: int, seed: int) -> dict[str, Interval]:
    """The numbers of ``ROWS`` that an evaluation has, with their 95 % intervals over test conversations."""
    sums = read_sums(evaluated)
    return {
        key: ratio_interval(
            sums[key].numerators[None], sums[key].denominators[None], num_samples=num_samples, seed=seed
        )
        for key in ROWS
        if key in sums and (sums[key].denominators.sum(axis=-1) > 0).all()
    }


def model_card(
    info: Json, metrics: Json, provenance: Json, found: Mapping[str, Interval], *, run_url: str
) -> str:
    """Markdown from run.json, metrics.json, provenance.json and the intervals of the evaluation."""
    system, corpus = info["system"], info["corpus"]
    settings = info["params"]["system"]
    kin = "of" if settings["architecture"] in ("hred", "vhred", "vhcr") else "to compare with"
    lines = [
        f"# {label(system)} on {corpus}, seed {info['seed']}",
        "",
        f"A conversation model {kin} the VHCR family (Park, Cho and Kim, NAACL 2018): it answers what was "
        "said before.",
        "",
        f"- System: `{system}` ({settings['architecture']}, reading `{settings['reading']}`, "
        f"word drop {settings['word_drop']}, utterance drop {settings['utterance_drop']}), "
        f"{info.get('num_parameters', 0):,} parameters",
        f"- Data: `{corpus}`, data hash `{info['data_hash'][:16]}`; "
        f"vocabulary `{info['vocabulary_hash'][:16]}`",
        f"- Made by commit {_commit(info)}, device {info.get('device', 'unknown')}, "
        f"{info.get('seconds', 0):.0f} s of training",
        f"- The run: [{info['system']}-{info['seed']}]({run_url})",
        "",
        "## On the test split",
        "",
        f"{metrics['num_conversations']:,} conversations, {metrics['num_words']:,} words; 95 % intervals by "
        "bootstrap over conversations. They say nothing of other seeds.",
        "",
        "| number | value | 95 % interval |",
        "| --- | --- | --- |",
    ]
    for key, said in ROWS.items():
        value = found[key].estimate if key in found else number(metrics, key)
        if value is not None:
            interval = f"{found[key].low:.4f} to {found[key].high:.4f}" if key in found else "–"
            lines.append(f"| {said} | {value:.4f} | {interval} |")
    lines += ["", *_notes(metrics, provenance), "", "## Limits", "", *_limits(info, metrics)]
    lines += ["", "## Asking it", "", *_asking(corpus)]
    return "\n".join(lines) + "\n"


def _commit(info: Json) -> str:
    commit = info.get("code_version")
    if not commit:
        return "unknown"
    return f"`{commit[:12]}`" + (" with uncommitted changes" if info.get("dirty") else "")


def _notes(metrics: Json, provenance: Json) -> list[str]:
    protocol = provenance.get("protocol", {})
    generation = protocol.get("generation", {})
    exact = metrics.get("bound_is_exact")
    kind = "exact: the model has no latent variable" if exact else "an upper bound, with one posterior sample"
    return [
        f"−log p is {kind}. Responses to {_context(protocol)}, decoded with strategy "
        f"`{generation.get('strategy', 'greedy')}`. "
        f"Metric version {metrics.get('metric_version', 1)}.",
    ]


def _context(protocol: Json) -> str:
    turns = protocol.get("evaluation", {}).get("context_turns", 1)
    return "the first turn of a conversation" if turns == 1 else f"the first {turns} turns of a conversation"


def _limits(info: Json, metrics: Json) -> list[str]:
    kl = number(metrics, "kl_per_word")
    limits = [
        "- It says what people in its corpus tend to say. It knows no facts and has no notion of harm: what "
        "comes out may be wrong, offensive or copied from the corpus. Not for advice, nor for use without "
        "supervision.",
        "- It hears only words of its vocabulary; all others are `<unk>`, which it also says.",
        "- Embedding metrics compare word vectors of whole responses; they are no judgement by people.",
    ]
    if not metrics.get("bound_is_exact") and kl is not None and kl < 0.02:
        limits.append(
            f"- Its latent variables carry next to nothing (KL {kl:.4f} nats a word): sampling z changes "
            "little."
        )
    if info["params"]["system"]["reading"] == "release":
        limits.append("- It cannot begin a conversation: it never learnt to say a first utterance.")
    return limits


def _asking(corpus: str) -> list[str]:
    name = f"models:/vhcr-{corpus}@champion"
    return [
        "```python",
        f'model = mlflow.pyfunc.load_model("{name}")',
        'model.predict([{"context": ["hello"]}], params={"num_turns": 2, "strategy": "sample", "seed": 1})',
        "```",
    ]
