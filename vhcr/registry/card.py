"""The card of a registered version: what it is, what it saw, how good it is and what it is not good for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vhcr.evaluation.records import Evaluation
from vhcr.results.labels import label
from vhcr.results.records import EvaluationRecord, TrainingRecord
from vhcr.results.runs import read_sums
from vhcr.results.statistics import Interval, ratio_interval

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
    training: TrainingRecord,
    evaluation: Evaluation,
    evaluated: EvaluationRecord,
    found: Mapping[str, Interval],
    *,
    run_url: str,
) -> str:
    """Markdown from the records of a run and the intervals of its evaluation."""
    settings = training.params["system"]
    kin = "of" if settings["architecture"] in ("hred", "vhred", "vhcr") else "to compare with"
    commit = f"`{training.code_version[:12]}`" if training.code_version else "unknown"
    if training.code_version and training.dirty:
        commit += " with uncommitted changes"
    lines = [
        f"# {label(training.system)} on {training.corpus}, seed {training.seed}",
        "",
        f"A conversation model {kin} the VHCR family (Park, Cho and Kim, NAACL 2018): it answers what was "
        "said before.",
        "",
        f"- System: `{training.system}` ({settings['architecture']}, reading `{settings['reading']}`, "
        f"word drop {settings['word_drop']}, utterance drop {settings['utterance_drop']}), "
        f"{training.num_parameters or 0:,} parameters",
        f"- Data: `{training.corpus}`, data hash `{training.data_hash[:16]}`; "
        f"vocabulary `{training.vocabulary_hash[:16]}`",
        f"- Made by commit {commit}, device {training.device or 'unknown'}, "
        f"{training.seconds or 0:.0f} s of training",
        f"- The run: [{training.system}-{training.seed}]({run_url})",
        "",
        "## On the test split",
        "",
        f"{evaluation.num_conversations:,} conversations, {evaluation.num_words:,} words; 95 % intervals by "
        "bootstrap over conversations. They say nothing of other seeds.",
        "",
        "| number | value | 95 % interval |",
        "| --- | --- | --- |",
    ]
    for key, said in ROWS.items():
        if key in found:
            estimate, low, high = found[key]
            lines.append(f"| {said} | {estimate:.4f} | {low:.4f} to {high:.4f} |")
    lines += ["", _notes(evaluation, evaluated), "", "## Limits", "", *_limits(training, evaluation)]
    lines += ["", "## Asking it", "", *_asking(training.corpus)]
    return "\n".join(lines) + "\n"


def _notes(evaluation: Evaluation, evaluated: EvaluationRecord) -> str:
    protocol = evaluated.protocol
    turns = protocol.evaluation.get("context_turns", 1)
    context = "the first turn" if turns == 1 else f"the first {turns} turns"
    exact = "exact: the model has no latent variable"
    kind = exact if evaluation.bound_is_exact else "an upper bound, with one posterior sample"
    return (
        f"−log p is {kind}. Responses to {context} of a conversation, decoded with strategy "
        f"`{protocol.generation.get('strategy', 'greedy')}`. "
        f"Metric version {evaluation.metric_version}."
    )


def _limits(training: TrainingRecord, evaluation: Evaluation) -> list[str]:
    limits = [
        "- It says what people in its corpus tend to say. It knows no facts and has no notion of harm: what "
        "comes out may be wrong, offensive or copied from the corpus. Not for advice, nor for use without "
        "supervision.",
        "- It hears only words of its vocabulary; all others are `<unk>`, which it also says.",
        "- Embedding metrics compare word vectors of whole responses; they are no judgement by people.",
    ]
    if not evaluation.bound_is_exact and evaluation.kl_per_word < 0.02:
        limits.append(
            f"- Its latent variables carry next to nothing (KL {evaluation.kl_per_word:.4f} nats a word): "
            "sampling z changes little."
        )
    if training.params["system"]["reading"] == "release":
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
