"""Verdicts: each claim turns over when its numbers do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from tests.report.conftest import assemble_in, with_numbers, with_system, with_weight
from tests.report.results_tree import SYSTEMS, write_run, write_tree
from vhcr.evaluation.records import Information
from vhcr.report.claims import Claim, Finding, claims, signed
from vhcr.report.page import Report
from vhcr.results.compare import Evidence
from vhcr.results.runs import Curves, Run
from vhcr.results.statistics import Interval

Numbers = Mapping[str, tuple[float, float, float, float]]


BEYOND = "Some system predicts better than HRED while it uses its latents"


def verdicts(found: list[Claim]) -> dict[str, str]:
    """Of the paper's claims; what goes beyond it has a test of its own."""
    return {claim.text: claim.finding.verdict for claim in found if claim.text != BEYOND}


def test_numbers_like_the_papers_support_its_claims(report: Report) -> None:
    found = verdicts(report.claims)
    decided = {text: verdict for text, verdict in found.items() if verdict != "not run"}
    assert set(decided.values()) == {"supported"}, decided
    assert len(decided) == 11
    not_run = [claim.finding.evidence for claim in report.claims if claim.finding.verdict == "not run"]
    assert "needs VHRED + u.d" in not_run
    assert [claim.finding.verdict for claim in report.claims][-len(not_run) :] == ["not run"] * len(not_run)


def test_numbers_against_the_paper_do_not(tmp_path: Path) -> None:
    numbers: Numbers = {
        "hred": (3.60, 0.0, 0.0, 0.62),
        "vhred": (3.80, 0.0, 0.40, 0.55),
        "vhred-wd": (3.50, 0.0, 0.50, 0.55),
        "vhred-bow": (3.40, 0.0, 0.30, 0.60),
        "vhcr-ud": (3.70, 0.001, 0.004, 0.50),
    }
    write_tree(tmp_path, systems=numbers)
    report = assemble_in(tmp_path)
    found = {text: v for text, v in verdicts(report.claims).items() if v != "not run"}
    assert set(found.values()) == {"not supported"}, found


def test_claims_of_a_table_are_about_its_systems(tmp_path: Path) -> None:
    """Word drop of 0.75 has a higher NLL and KL than a loss for the words, and no place in Table 1."""
    write_tree(tmp_path, systems={**SYSTEMS, "vhred-wd75": (4.5, 0.0, 0.9, 0.5)})
    found = {claim.text: claim.finding for claim in assemble_in(tmp_path).claims}
    finding = found["Bag-of-words loss gives the highest KL, at the cost of the highest NLL"]
    assert finding.verdict == "supported"
    assert "0.75" not in finding.evidence


def test_no_difference_is_undecided(tmp_path: Path) -> None:
    write_tree(tmp_path, systems={"vhcr-ud": SYSTEMS["vhred-bow"], "vhred-bow": SYSTEMS["vhred-bow"]})
    found = verdicts(assemble_in(tmp_path).claims)
    assert found["VHCR with utterance drop has a lower NLL than VHRED + bow"] == "undecided"
    assert found["VHCR with utterance drop responds best by most embedding metrics"] == "undecided"


def test_seeds_that_disagree_leave_it_open(tmp_path: Path) -> None:
    write_tree(tmp_path, systems={"vhred": SYSTEMS["vhred"]}, seeds=(0,))
    write_run(tmp_path, "toy", "vhred", 1, (3.4, 0.0, 0.4, 0.5))
    found = verdicts(assemble_in(tmp_path).claims)
    assert found["VHRED ignores its latent variable: its KL vanishes"] == "undecided"


@pytest.mark.parametrize(
    ("kl", "weight", "verdict"),
    [
        ([0.4, 0.1, 0.01, 0.005], 1.0, "supported"),
        ([0.4, 0.1, 0.01, 0.005], 0.3, "undecided"),  # annealing never ended: nothing can be said
        ([0.4, 0.4, 0.4, 0.4], 1.0, "not supported"),
        ([0.4, 0.4, 0.4, 0.3], 1.0, "undecided"),  # still falling
        ([0.4, 0.1, 0.03, 0.03], 1.0, "undecided"),  # neither vanished nor alive
        ([0.005, 0.005, 0.005], 1.0, "undecided"),  # three validations: nothing had time to vanish
        ([], 1.0, "undecided"),
    ],
)
def test_vanishing_by_the_curve(report: Report, kl: list[float], weight: float, verdict: str) -> None:
    steps = [100.0, 200, 300, 400][: len(kl)]
    columns = {"kl_per_word": kl, "kl_weight": [weight] * len(kl)}
    curves = Curves(steps, ["validation"] * len(kl), columns)
    runs = tuple(replace(run, curves=curves) for run in report.results.of("vhred"))
    evidence = Evidence(replace(report.results, runs=runs), num_samples=20, seed=0)
    assert verdicts(claims(evidence))["VHRED ignores its latent variable: its KL vanishes"] == verdict
    if weight < 1:
        claim = next(c for c in claims(evidence) if c.text.startswith("VHRED ignores"))
        assert "KL weight only reached 0.30" in claim.finding.evidence


@pytest.mark.parametrize(
    ("early", "still_decided"),
    [
        (("hred",), 11),  # it has no KL to weigh
        (("vhcr-ud",), 2),  # that VHRED's KL vanishes, with word drop and without
        (tuple(SYSTEMS), 0),
    ],
)
def test_a_run_that_ended_before_its_annealing_decides_nothing(
    report: Report, early: tuple[str, ...], still_decided: int
) -> None:
    """After one epoch of thirty HRED had the lowest NLL and VHCR used both its latents: of course."""

    def ended(run: Run) -> Run:
        weight = 0.05 if run.system in early else 1.0
        return with_weight(run, weight)

    runs = tuple(map(ended, report.results.runs))
    found = claims(Evidence(replace(report.results, runs=runs), num_samples=20, seed=0))
    findings = [claim.finding for claim in found if claim.text != BEYOND]
    noted = [finding for finding in findings if "(KL weight only reached 0.05)" in finding.evidence]
    assert {finding.verdict for finding in noted} <= {"undecided"}
    decided = [finding for finding in findings if finding.verdict not in ("undecided", "not run")]
    assert len(decided) == still_decided
    assert len(decided) + len(noted) == 11


def test_priors_of_a_run_that_ended_early_may_still_narrow(tmp_path: Path) -> None:
    write_tree(tmp_path, systems={"vhred-zonly": (3.5, 0.0, 0.3, 0.5)})
    results = assemble_in(tmp_path).results

    def narrows(weight: float) -> str:
        runs = tuple(
            with_weight(with_numbers(run, diagnostics={"prior_variance_ratio": 50.0}), weight)
            for run in results.runs
        )
        found = verdicts(claims(Evidence(replace(results, runs=runs), num_samples=20, seed=0)))
        return next(found[text] for text in found if text.startswith("A decoder that sees z_utt alone"))

    assert narrows(1.0) == "not supported"
    assert narrows(0.05) == "undecided"


def test_a_weight_that_was_never_to_reach_one_has_come_to_its_end(report: Report) -> None:
    def half(run: Run, wanted: float) -> Run:
        made = with_system(with_weight(run, 0.5), architecture="vhcr", final_kl_weight=wanted)
        return replace(made, system="mine")

    def beyond(wanted: float) -> Claim:
        runs = [run if run.system == "hred" else half(run, wanted) for run in report.results.runs]
        kept = tuple(run for run in runs if run.system in ("hred", "mine"))
        found = claims(Evidence(replace(report.results, runs=kept), num_samples=20, seed=0))
        return next(claim for claim in found if claim.text == BEYOND)

    assert "only reached" not in beyond(0.5).finding.evidence
    assert "KL weight only reached 0.50" in beyond(1.0).finding.evidence


VANISHES = "VHRED ignores its latent variable: its KL vanishes"
BOTH = "VHCR encodes information in z_conv as well as in z_utt"
MORE = "VHCR with utterance drop uses its latents more than VHRED and VHRED + w.d"


def measured(run: Run, information: float | None, other: float | None, units: int = 0) -> Run:
    """The run with these diagnostics of its z_conv, or of z_utt where it has no other."""
    level = "conv" if run.value("kl_conv_per_word") else "utt"
    sources = run.evaluation.diagnostics.reconstruction_per_word_by_source
    assert sources is not None
    changed = {
        f"active_units_{level}": units,
        f"mutual_information_{level}": Information(estimate=information),
        "reconstruction_per_word_by_source": sources.model_copy(
            update={f"shuffled_{level}" if level == "conv" else "shuffled": other}
        ),
    }
    return with_numbers(run, diagnostics=changed)


def judged_with(report: Report, *changed: Run) -> dict[str, Finding]:
    """Findings when these runs stand in the place of their like."""
    new = {(run.system, run.seed): run for run in changed}
    runs = tuple(new.get((run.system, run.seed), run) for run in report.results.runs)
    found = claims(Evidence(replace(report.results, runs=runs), num_samples=20, seed=0))
    return {claim.text: claim.finding for claim in found}


def test_a_kl_without_information_is_none(report: Report) -> None:
    """After one epoch of Cornell z_conv had a KL of 0.086, a fifth of the whole, and told nothing."""
    before = judged_with(report)
    runs = report.results.of("vhcr-ud")
    found = judged_with(report, *(measured(run, -0.002, 3.0007) for run in runs))
    assert (before[BOTH].verdict, found[BOTH].verdict) == ("supported", "not supported")
    note = "the KL of z_conv (0.170) does not count: 0 active units, 0.00 nats of mutual information"
    assert note in found[BOTH].evidence
    assert "another's z costs 0.0007 nats a word" in found[BOTH].evidence
    # z_utt is still used: its 0.32 counts, and the 0.17 of z_conv do not.
    assert found[MORE].verdict == "supported"
    assert "VHCR + u.d vs VHRED: +0.486" in before[MORE].evidence
    assert "VHCR + u.d vs VHRED: +0.316" in found[MORE].evidence
    stays = "VHCR with utterance drop keeps a high and stable KL"
    assert "VHCR + u.d, seed 0: KL 0.481 at" in before[stays].evidence
    assert "VHCR + u.d, seed 0: KL 0.311 at" in found[stays].evidence
    mixed = judged_with(report, measured(runs[0], -0.002, 3.0007))
    assert mixed[BOTH].verdict == "undecided", "one seed uses z_conv, the other does not"


@pytest.mark.parametrize(
    ("information", "other", "units", "verdict"),
    [
        (2.0, 3.6, 0, "not supported"),  # a small scale is no sign of disuse where the prior is learnt
        (0.02, 3.6, 9, "supported"),
        (2.0, 3.0005, 9, "supported"),  # the decoder does not hear what z knows
        (None, 3.6, 9, "undecided"),
        (2.0, None, 9, "undecided"),
        (None, 3.0005, 9, "supported"),
    ],
)
def test_use_takes_information_and_a_decoder_that_hears_it(
    tmp_path: Path, information: float | None, other: float | None, units: int, verdict: str
) -> None:
    write_tree(tmp_path, systems={"vhred": (3.5, 0.0, 0.3, 0.5)}, seeds=(0,))
    report = assemble_in(tmp_path)
    run = measured(report.results.runs[0], information, other, units)
    finding = judged_with(report, run)[VANISHES]
    assert finding.verdict == verdict
    assert ("does not count" in finding.evidence) is (verdict == "supported")
    assert ("was not measured" in finding.evidence) is (verdict == "undecided")


def test_a_kl_that_vanished_needs_no_diagnostics(report: Report) -> None:
    """And it keeps the step at which it went under, whatever its z is worth in the end."""
    slow = "Word drop of 0.25 does not keep VHRED's KL from vanishing, it only slows that"
    before = judged_with(report)
    runs = [run for system in ("vhred", "vhred-wd") for run in report.results.of(system)]
    found = judged_with(report, *(measured(run, None, None) for run in runs))
    assert found[VANISHES] == before[VANISHES]
    assert found[slow] == before[slow]
    assert "VHRED under 0.02 from step 360, 360 on" in found[slow].evidence


def test_claims_about_one_corpus_stay_with_it(report: Report) -> None:
    for corpus, worst, better in (("cornell", True, False), ("ubuntu", False, True), (None, False, False)):
        data = report.results.data.model_copy(update={"paper_corpus": corpus})
        evidence = Evidence(replace(report.results, data=data), num_samples=20, seed=0)
        texts = verdicts(claims(evidence))
        assert ("HRED responds worst" in texts) is worst
        assert ("HRED responds better than VHRED and VHRED + bow" in texts) is better


def test_higher_word_drop_and_narrow_priors(tmp_path: Path) -> None:
    write_tree(
        tmp_path, systems={"vhred-zonly": (3.5, 0.0, 0.004, 0.5), "vhred-heavy": (3.5, 0.0, 0.004, 0.5)}
    )
    report = assemble_in(tmp_path)
    assert verdicts(report.claims)["Nor does a higher word drop, 0.5 or 0.75"] == "not run"
    runs = tuple(
        with_numbers(
            with_system(run, architecture="vhred", word_drop=0.75) if run.system == "vhred-heavy" else run,
            diagnostics={"prior_variance_ratio": 0.01},
        )
        for run in report.results.runs
    )
    evidence = Evidence(replace(report.results, runs=runs), num_samples=20, seed=0)
    found = verdicts(claims(evidence))
    assert found["Nor does a higher word drop, 0.5 or 0.75"] == "supported"
    narrow = next(text for text in found if text.startswith("A decoder that sees z_utt alone"))
    assert found[narrow] == "supported"
    assert verdicts(report.claims)[narrow] == "undecided", "the KL is gone but priors are as wide as before"


@pytest.mark.parametrize(
    ("vhcr", "verdict"),
    [
        ((3.30, 0.2, 0.2, 0.6), "supported"),
        ((3.30, 0.1, 0.1, 0.6), "not supported"),  # better, but hardly by its latents
        ((3.80, 0.2, 0.2, 0.6), "not supported"),
        ((3.515, 0.2, 0.2, 0.6), "undecided"),  # by its bound with 50 samples, HRED's equal
        ((3.30, 0.0, 0.004, 0.6), "not run"),
    ],
)
def test_better_than_hred_with_latents_in_use(
    tmp_path: Path, vhcr: tuple[float, float, float, float], verdict: str
) -> None:
    write_tree(tmp_path, systems={"hred": SYSTEMS["hred"], "vhcr-ud": vhcr})
    claim = next(claim for claim in assemble_in(tmp_path).claims if claim.text == BEYOND)
    assert claim.finding.verdict == verdict, claim.finding


def test_a_system_is_known_by_its_parameters(tmp_path: Path) -> None:
    """A word drop of 0.5 under the name of 0.25 is not evidence about 0.25."""
    write_tree(tmp_path, systems=dict.fromkeys(("vhred", "vhred-wd", "mine"), SYSTEMS["vhred-wd"]))
    report = assemble_in(tmp_path)
    runs = tuple(
        with_system(run, architecture="vhred", word_drop=0.5) if run.system == "vhred-wd" else run
        for run in report.results.runs
    )
    found = claims(Evidence(replace(report.results, runs=runs), num_samples=20, seed=0))
    by_text = {claim.text: claim.finding for claim in found}
    slow = next(finding for text, finding in by_text.items() if text.startswith("Word drop of 0.25"))
    assert slow.verdict == "not run"
    high = by_text["Nor does a higher word drop, 0.5 or 0.75"]
    assert high.verdict == "supported"
    assert "VHRED + w.d 0.5 under 0.02 from step" in high.evidence
    assert "VHRED under 0.02 from step" in high.evidence


def test_bounds_on_other_words_are_not_compared(report: Report) -> None:
    """The reading `release` scores no first utterance; its nats once stood against all others'."""
    runs = tuple(
        with_numbers(run, num_words=1) if run.system == "vhred-bow" else run for run in report.results.runs
    )
    evidence = Evidence(replace(report.results, runs=runs), num_samples=20, seed=0)
    assert evidence.difference("vhcr-ud", "vhred-bow", "nll_per_word") is None
    assert evidence.difference("vhcr-ud", "vhred-bow", "average_1turn") is not None
    found = {claim.text: claim.finding for claim in claims(evidence)}
    finding = found["VHCR with utterance drop has a lower NLL than VHRED + bow"]
    assert finding.verdict == "undecided"
    assert "of the same words" in finding.evidence


def test_evidence_without_files_is_open_not_wrong(report: Report) -> None:
    runs = tuple(replace(run, sums={}, curves=Curves()) for run in report.results.runs)
    found = verdicts(claims(Evidence(replace(report.results, runs=runs), num_samples=20, seed=0)))
    assert set(found.values()) == {"undecided", "not run"}


def test_no_interval_over_some_of_the_seeds_alone(report: Report) -> None:
    """A mean of all seeds with an interval of those that have numbers per conversation would mislead."""
    runs = report.results.of("vhcr-ud")
    assert len(runs) > 1
    lacking = [replace(run, sums={}) if run is runs[0] else run for run in report.results.runs]
    evidence = Evidence(replace(report.results, runs=lacking), num_samples=20, seed=0)
    assert evidence.mean("vhcr-ud", "nll_per_word") is not None
    assert evidence.interval("vhcr-ud", "nll_per_word") is None
    assert evidence.interval("hred", "nll_per_word") is not None


def test_narrow_intervals_keep_their_width() -> None:
    """Once a clear difference was printed as "+0.000 [+0.000, +0.000]"."""
    assert signed(Interval(-0.0123, -0.02, -0.0041)) == "−0.012 [−0.020, −0.004]"
    assert signed(Interval(0.00004, 0.00001, 0.00007)) == "+0.00004 [+0.00001, +0.00007]"
