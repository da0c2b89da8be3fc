"""One fit: it resumes exactly, stops when it should, and says what went wrong."""

import itertools
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from tests.training import tiny
from vhcr.errors import CheckpointError, ParameterError, StorageError, TrainingError
from vhcr.models import build
from vhcr.models.objective import Totals
from vhcr.training import state as state_module
from vhcr.training.loop import Interrupted, Progress, fit, train_step
from vhcr.training.parallel import Workers
from vhcr.training.run import curves_csv
from vhcr.training.state import TrainState, read_tensors

TRAIN = tiny.conversations(22, seed=1)
VALIDATION = tiny.conversations(9, seed=2)


def new_state(system: str, identity: str = "run", **changes: object) -> TrainState:
    torch.set_num_threads(1)
    model = build(tiny.MODEL, tiny.system(system, **changes), tiny.VOCABULARY, seed=3)
    return TrainState(model, torch.optim.Adam(model.parameters(), lr=0.01), identity)


class Recorder:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.rows: list[dict[str, object]] = []
        self.steps: list[int] = []

    def recorded(self, rows, words_per_second):
        self.rows.extend(rows)

    def progress(self, progress: Progress) -> None:
        self.steps.append(progress.step)


def run_to_end(state: TrainState, work: Path, params, recorder: Recorder | None = None) -> None:
    fit(state, TRAIN, VALIDATION, params, seed=5, work=work, observers=[recorder] if recorder else [])


def stop_after(steps: int):
    counter = itertools.count(1)
    return lambda: next(counter) >= steps


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Runs that nothing stops, each made once: what came of it, what was told, where it lies."""
    made = {}

    def run(system: str, changes: dict[str, object], params):
        key = (system, tuple(changes.items()), params)
        if key not in made:
            made[key] = new_state(system, **changes), Recorder(), tmp_path_factory.mktemp("straight")
            state, recorder, work = made[key]
            run_to_end(state, work, params, recorder)
        return made[key]

    return run


REMEDIES = {
    "free_bits_utt": 0.1,
    "free_bits_conv": 0.2,
    "kl_cycles": 2,
    "final_kl_weight": 0.8,
    "posterior_batch_norm": 0.5,
    "inference_first_steps": 8,
}


@pytest.mark.parametrize(
    ("system", "changes"),
    [
        ("hred", {}),
        ("vhred-wd", {}),
        ("vhred-bow", {}),
        ("vhcr-ud", {}),
        ("vhcr-ud", REMEDIES),
        ("transformer", {}),
    ],
)
@pytest.mark.parametrize("stops", [(1,), (6,), (3, 4, 2)])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    tmp_path, uninterrupted, system, changes, stops
):
    """The authors' program restarted Adam and the KL weight on resume."""
    params = tiny.training(final_learning_rate_factor=0.25)
    straight, whole, straight_work = uninterrupted(system, changes, params)
    work, pieces = tmp_path, Recorder()
    for steps in stops:
        state = new_state(system, **changes)
        if (work / "state.safetensors").exists():
            state.load(work / "state.safetensors")
        with pytest.raises(Interrupted):
            fit(
                state,
                TRAIN,
                VALIDATION,
                params,
                seed=5,
                work=work,
                observers=[pieces],
                should_stop=stop_after(steps),
            )
    resumed = new_state(system, **changes)
    resumed.load(work / "state.safetensors")
    run_to_end(resumed, work, params, pieces)

    expected, _ = read_tensors(straight_work / "state.safetensors")
    found, _ = read_tensors(work / "state.safetensors")
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    # As text, since a checkpoint that sorted its keys once put the columns in another order.
    assert curves_csv(resumed.position.rows) == curves_csv(straight.position.rows)
    assert whole.rows == pieces.rows
    assert whole.steps == pieces.steps == list(range(1, 19))
    best, other = (read_tensors(folder / "best.safetensors")[0] for folder in (straight_work, work))
    assert all(torch.equal(best[name], other[name]) for name in best)


def test_the_learning_rate_falls_to_its_final_share(tmp_path):
    """In a straight line over the whole schedule, that of a run cut short by ``max_steps`` too."""
    state = new_state("hred")
    rates = []

    class Rates(Recorder):
        def progress(self, progress: Progress) -> None:
            rates.append(state.optimiser.param_groups[0]["lr"])

    run_to_end(state, tmp_path, tiny.training(max_steps=8, final_learning_rate_factor=0.2), Rates())
    assert rates == pytest.approx([0.01 * (1.0 - 0.1 * step) for step in range(8)])


@pytest.mark.parametrize("shares", [1, 2])
def test_a_summed_loss_has_the_gradient_of_the_mean_times_the_words(shares):
    """So that clipping at 1 normalises it, as in the authors' program; also where processes share a batch."""

    class Process(Workers):
        def sum(self, totals: Totals) -> Totals:
            return whole

    batch = TRAIN.batch(range(6))
    words = float(batch.num_words.sum())
    gradients = {}
    for reduction in ("mean", "sum"):
        state = new_state("vhcr-ud")
        state.model.eval()  # no drops
        params = tiny.training(loss_reduction=reduction, gradient_clip_norm=1e9)
        whole = Totals(num_words=int(words) * shares, loss=1.0)
        train_step(state, batch, params, seed=0, workers=Process())
        gradients[reduction] = {name: p.grad for name, p in state.model.named_parameters()}
    for name, gradient in gradients["mean"].items():
        if gradient is not None:
            torch.testing.assert_close(gradients["sum"][name], gradient * words * shares)


@pytest.mark.parametrize("asked", range(1, 30))
def test_stopped_anywhere_in_a_validation_too_nothing_is_lost(tmp_path, uninterrupted, asked):
    """A validation of minutes heard nothing: cancelled in it, a training was killed ten seconds later.

    Six steps an epoch, and of nine conversations in batches of four a validation asks three times.
    """
    params = tiny.training(num_epochs=2, validate_every_steps=4, record_every_steps=3)
    _, whole, straight_work = uninterrupted("vhcr-ud", {}, params)
    state, pieces = new_state("vhcr-ud"), Recorder()
    options = {"seed": 5, "work": tmp_path, "observers": [pieces]}
    questions = itertools.count(1)
    if asked > 12 + 4 * 3:  # two validations within epochs, two at their ends
        fit(state, TRAIN, VALIDATION, params, **options, should_stop=lambda: next(questions) == asked)
        assert next(questions) <= asked
        return
    with pytest.raises(Interrupted, match="run again to resume"):
        fit(state, TRAIN, VALIDATION, params, **options, should_stop=lambda: next(questions) == asked)
    assert next(questions) == asked + 1, "it stopped at once"
    resumed = new_state("vhcr-ud")
    resumed.load(tmp_path / "state.safetensors")
    run_to_end(resumed, tmp_path, params, pieces)
    one, other = (folder / "state.safetensors" for folder in (straight_work, tmp_path))
    assert one.read_bytes() == other.read_bytes()
    assert whole.rows == pieces.rows
    assert whole.steps == pieces.steps


def test_curves_cover_every_step_once_and_validation_closes_every_epoch(tmp_path):
    state = new_state("vhcr-ud")
    run_to_end(state, tmp_path, tiny.training(record_every_steps=4))
    train_steps = [row["step"] for row in state.position.rows if row["split"] == "train"]
    assert train_steps == [4, 6, 8, 12, 16, 18]  # every fourth, and what is left at an epoch's end
    checks = [(row["step"], row["epoch"]) for row in state.position.rows if row["split"] == "validation"]
    assert checks == [(6, 0), (12, 1), (18, 2)]
    weights = {row["step"]: row["kl_weight"] for row in state.position.rows}
    assert weights[4] == 0.4
    assert weights[12] == 1.0


@pytest.mark.parametrize("recorded", [4, 3])
def test_validation_within_epochs_happens_once_a_step(tmp_path, recorded):
    """The end of an epoch, of the third one by max_steps, may be such a step as well."""
    state = new_state("vhcr-ud")
    params = tiny.training(record_every_steps=recorded, validate_every_steps=3, max_steps=15)
    run_to_end(state, tmp_path, params)
    checks = [row["step"] for row in state.position.rows if row["split"] == "validation"]
    assert checks == [3, 6, 9, 12, 15]


def test_every_validation_says_how_much_each_latent_is_used(tmp_path):
    state = new_state("vhcr-ud")
    run_to_end(state, tmp_path, tiny.training(num_epochs=2))
    usage = {"prior_variance_ratio", "active_units_utt", "active_units_conv"}
    assert all((usage <= row.keys()) == (row["split"] == "validation") for row in state.position.rows)
    header, *lines = curves_csv(state.position.rows).splitlines()
    column = header.split(",").index("active_units_conv")
    for line, row in zip(lines, state.position.rows, strict=True):
        assert line.split(",")[column] == str(row.get("active_units_conv", ""))


def test_best_parameters_are_those_of_the_lowest_validation_bound(tmp_path):
    state = new_state("hred")
    # So high a rate, to the end, that the bound gets worse again.
    params = tiny.training(num_epochs=5, learning_rate=0.3, final_learning_rate_factor=1.0)
    run_to_end(state, tmp_path, params)
    bounds = {r["step"]: r["nll_per_word"] for r in state.position.rows if r["split"] == "validation"}
    best = min(bounds, key=bounds.__getitem__)
    assert state.position.best_step == best
    assert best != max(bounds), "the test needs a run whose last epoch is not its best"
    assert read_tensors(tmp_path / "best.safetensors")[1]["step"] == best


def test_patience_ends_a_run_that_gets_no_better(tmp_path):
    state = new_state("hred")
    for group in state.optimiser.param_groups:
        group["lr"] = 0.3
    run_to_end(state, tmp_path, tiny.training(num_epochs=50, patience_epochs=2))
    bounds = [r["nll_per_word"] for r in state.position.rows if r["split"] == "validation"]
    assert len(bounds) < 50
    assert min(bounds) not in bounds[-2:]
    assert min(bounds) == bounds[-3]


def test_max_steps_ends_a_run_within_an_epoch_and_still_validates(tmp_path):
    state = new_state("hred")
    run_to_end(state, tmp_path, tiny.training(max_steps=8))
    assert state.position.step == 8
    assert state.position.rows[-1]["split"] == "validation"
    assert state.position.rows[-1]["step"] == 8


def test_a_loss_that_is_not_finite_stops_and_names_step_and_conversations(tmp_path):
    state = new_state("hred")
    with torch.no_grad():
        state.model.decoder.output.linear.bias[5] = float("nan")
    with pytest.raises(TrainingError, match=r"step 0: loss nan.*conversations \[\d+"):
        run_to_end(state, tmp_path, tiny.training())


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    state = new_state("hred")
    state.save(tmp_path / "state.safetensors")
    with pytest.raises(CheckpointError, match="belongs to run run, not to other"):
        new_state("hred", identity="other").load(tmp_path / "state.safetensors")


def test_a_checkpoint_of_another_model_is_refused_by_name(tmp_path):
    new_state("hred").save(tmp_path / "state.safetensors")
    with pytest.raises(CheckpointError, match=r"was made for another model: \w+"):
        new_state("vhcr-ud").load(tmp_path / "state.safetensors")


def test_a_damaged_checkpoint_is_named(tmp_path):
    path = tmp_path / "state.safetensors"
    new_state("hred").save(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=str(path)):
        new_state("hred").load(path)


def test_a_checkpoint_with_a_number_that_is_none_is_refused_by_name(tmp_path):
    """Its digest is right: it was written so."""
    path = tmp_path / "state.safetensors"
    state = new_state("hred")
    with torch.no_grad():
        state.model.decoder.output.linear.bias[5] = float("nan")
    state.save(path)
    with pytest.raises(CheckpointError, match=rf"{path}: model/decoder\S+ holds a number that is not finite"):
        new_state("hred").load(path)


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), SafetensorError("I/O error: No space left on device")]
)
def test_a_full_disk_leaves_the_checkpoint_before_untouched(tmp_path, monkeypatch, error):
    """The library that writes tells it in a class of its own, which was a traceback."""
    path = tmp_path / "state.safetensors"
    state = new_state("hred")
    state.save(path)
    before = path.read_bytes()

    def full(tensors, name, metadata=None):
        Path(name).write_bytes(b"half")
        raise error

    monkeypatch.setattr(state_module, "save_file", full)
    with pytest.raises(StorageError, match="No space left"):
        state.save(path)
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["state.safetensors", "state.seconds"]


def test_at_first_most_steps_train_the_posteriors_alone(tmp_path):
    """Of five steps, four move the posteriors (with f_conv) and nothing else, the fifth all; later all do."""
    state = new_state("vhcr-ud", inference_first_steps=10)
    model = state.model
    inference = {id(parameter) for parameter in model.inference_parameters()}
    own = {name for name, parameter in model.named_parameters() if id(parameter) in inference}
    prefixes = ("posterior_mlp", "conversation_encoder", "conversation_posterior_mlp")
    assert own == {name for name, _ in model.named_parameters() if name.startswith(prefixes)}
    moved = []
    for step in range(12):
        before = {name: parameter.clone() for name, parameter in model.named_parameters()}
        train_step(state, TRAIN.batch(range(8)), tiny.training(kl_annealing_steps=1), 5)
        state.position.step = step + 1
        moved.append(
            {n for n, parameter in model.named_parameters() if not torch.equal(before[n], parameter)}
        )
    for step in (0, 1, 2, 3, 5, 6, 7, 8):
        assert moved[step] == own, step
    for step in (4, 9, 10, 11):
        assert moved[step] > own, step
        assert {"decoder.output.linear.weight", "prior_mlp.mu.weight", "h_unk"} <= moved[step]


def test_several_processes_cannot_normalise_over_a_batch(tmp_path):
    state = new_state("vhred", posterior_batch_norm=0.5)
    with pytest.raises(ParameterError, match="each of 2 processes has a part"):
        fit(
            state,
            TRAIN,
            VALIDATION,
            tiny.training(),
            seed=5,
            work=tmp_path,
            workers=Workers(rank=0, size=2),
        )
