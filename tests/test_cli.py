"""The commands, typed as a person would, on real files of untrained runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from tests.generation.runs import VOCABULARY, trained_run
from vhcr import cli, recording
from vhcr.commands.options import DEFAULTS
from vhcr.files import write_json
from vhcr.generation import control
from vhcr.generation.respond import Responder
from vhcr.generation.text import to_ids, to_text
from vhcr.models import Noise
from vhcr.params import GenerationParams
from vhcr.training.run import TrainedRun

ROOT = Path(__file__).parent.parent
RUN = "invented/vhcr-ud/0"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with some trained runs and no params.yaml."""
    root = tmp_path_factory.mktemp("project")
    trained_run(root)
    trained_run(root, seed=1)
    trained_run(root, "hred")
    trained_run(root, reading="release", corpus="old")
    return root


@pytest.fixture(autouse=True)
def inside(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)


def typed(*arguments: str, input: str | None = None) -> str:
    """What a command prints; it must succeed."""
    result = CliRunner().invoke(cli.app, list(arguments), input=input)
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that ``main`` prints when it refuses with status 2."""
    with pytest.raises(SystemExit) as ended:
        cli.main(list(arguments))
    assert ended.value.code == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    return captured.err


def objects(text: str) -> list[dict]:  # type: ignore[type-arg]
    return [json.loads(line) for line in text.splitlines()]


def responder(run: str = RUN, **changes: object) -> Responder:
    trained = TrainedRun.load(Path("data/trained") / run)
    return Responder(trained.model, GenerationParams.model_validate({**DEFAULTS, **changes}), Noise(0))


def told(token_ids: list[list[int]]) -> list[str]:
    return [to_text(ids, VOCABULARY) for ids in token_ids]


def test_generate_prints_what_respond_says() -> None:
    contexts = [
        [to_ids(text, VOCABULARY, 30) for text in texts] for texts in (["hello"], ["fine", "how are you?"])
    ]
    found = responder(strategy="sample").respond(contexts, 2, samples=2)
    printed = objects(
        typed("generate", RUN, "hello", "fine | how are you?", "--turns", "2", "--samples", "2",
              "--strategy", "sample", "--json")
    )  # fmt: skip
    assert [each["context"] for each in printed] == [["hello"], ["fine", "how are you?"]]
    assert [r["turns"] for each in printed for r in each["responses"]] == [told(t) for t in found.token_ids]
    assert found.log_probs is not None
    for response, expected in zip(
        [r for each in printed for r in each["responses"]], found.log_probs, strict=True
    ):
        assert response["log_probs"] == pytest.approx(expected.tolist(), rel=1e-5)


def test_contexts_come_from_arguments_standard_input_and_files_alike(tmp_path: Path) -> None:
    expected = typed("generate", RUN, "hello", "fine | thanks", "--json")
    assert typed("generate", RUN, "--json", input="hello\n\nfine | thanks\n") == expected
    assert typed("generate", RUN, "-", "--json", input="hello\nfine|thanks\n") == expected
    lines = [
        json.dumps(["hello"]),
        "",
        json.dumps({"id": "c", "utterances": [{"text": "fine", "speaker": "A"}, "thanks"]}),
    ]
    file = tmp_path / "contexts.jsonl"
    file.write_text("\n".join(lines), encoding="utf-8")
    assert typed("generate", RUN, "--file", str(file), "--json") == expected


def test_only_a_line_feed_ends_a_line_of_a_file(tmp_path: Path) -> None:
    """JSON may hold U+2028, U+0085 and other line breaks of Python's as they are: valid lines were cut there.

    A byte order mark before the first line, as some editors write, was refused.
    """
    texts = ["hello\u2028fine", "thanks\x85again", "hello\x1cfine"]
    file = tmp_path / "contexts.jsonl"
    lines = [json.dumps([text], ensure_ascii=False) for text in texts[:2]] + [json.dumps(texts[2:])]
    file.write_text("\ufeff" + "\r\n".join(lines), encoding="utf-8")
    printed = typed("generate", RUN, "--file", str(file), "--json").removesuffix("\n").split("\n")
    assert [json.loads(line)["context"] for line in printed] == [[text] for text in texts]


def test_text_that_utf8_cannot_hold_becomes_what_it_becomes_in_a_corpus(tmp_path: Path) -> None:
    """JSON can spell half a surrogate pair; printing it was a traceback."""
    file = tmp_path / "contexts.jsonl"
    file.write_text('["hello \\ud800"]', encoding="utf-8")
    assert objects(typed("generate", RUN, "--file", str(file), "--json"))[0]["context"] == ["hello ?"]


def test_text_output_shows_context_and_responses() -> None:
    spoken = objects(typed("generate", RUN, "hello | fine", "--json"))[0]["responses"][0]["turns"][0]
    assert typed("generate", RUN, "hello | fine") == f"  hello\n  fine\n> {spoken}\n"
    numbered = typed("generate", RUN, "hello", "--samples", "2").splitlines()
    assert [numbered[1], numbered[3]] == ["(1)", "(2)"]


def test_options_reach_decoding() -> None:
    """Each option changes the parameter it names, and those of one strategy ask for it."""
    cases: list[tuple[list[str], dict[str, object]]] = [
        (["--max-words", "3"], {"max_words": 3}),
        (["--beam-size", "3"], {"strategy": "beam", "beam_size": 3}),
        (["--strategy", "beam", "--length-penalty", "0"], {"strategy": "beam", "length_penalty": 0.0}),
        (["--length-penalty", "0"], {"strategy": "beam", "length_penalty": 0.0}),
        (["--temperature", "3"], {"strategy": "sample", "temperature": 3.0}),
        (["--top-k", "2"], {"strategy": "sample", "top_k": 2}),
        (["--top-p", "0.3"], {"strategy": "sample", "top_p": 0.3}),
        (["--z-conv-from", "prior"], {"z_conv_from": "prior"}),
    ]  # fmt: skip
    for options, changes in cases:
        found = responder(**changes).respond([[to_ids("hello", VOCABULARY, 30)]])
        printed = objects(typed("generate", RUN, "hello", "--json", *options))[0]["responses"][0]
        assert printed["turns"] == told(found.token_ids[0])
        assert found.log_probs is not None
        assert printed["log_probs"] == pytest.approx(found.log_probs[0].tolist(), rel=1e-5)


def test_seed_and_checkpoint_and_latent_scale_matter() -> None:
    ask = ("generate", RUN, "hello", "--strategy", "sample", "--json")
    usual = typed(*ask)
    assert typed(*ask) == usual
    assert typed(*ask, "--seed", "1") != usual
    assert typed(*ask, "--checkpoint", "last") != usual
    assert typed(*ask, "--latent-scale", "0") != usual


def test_params_yaml_decides_where_it_knows_the_corpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    assert values["defaults"]["generation"] == DEFAULTS, "the two say the same unless someone means otherwise"
    values["corpora"]["invented"] = {**values["corpora"]["toy"], "generation": {"max_words": 2}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    folder = str(trained_run(tmp_path))
    monkeypatch.chdir(tmp_path)
    limited = objects(typed("generate", folder, "hello", "--json"))
    words = to_ids(limited[0]["responses"][0]["turns"][0] or "hello", VOCABULARY, 30)
    assert len(words) == 2
    longer = objects(typed("generate", folder, "hello", "--json", "--max-words", "9"))
    assert longer[0]["responses"][0]["log_probs"] != limited[0]["responses"][0]["log_probs"]


def test_whole_conversations_from_z_conv_alone() -> None:
    """Table 7: two draws of z_conv, three conversations from each."""
    found = control.conversations(responder(), 2, 3, samples=3)
    printed = objects(
        typed("generate", RUN, "--conversations", "2", "--samples", "3", "--turns", "3", "--json")
    )
    assert [r["turns"] for each in printed for r in each["responses"]] == [told(t) for t in found.token_ids]
    assert [each["context"] for each in printed] == [[], []]
    opened = objects(
        typed("generate", "old/vhcr-ud/0", "--conversations", "1", "--opening", "hello", "--json")
    )
    assert opened[0]["context"] == ["hello"]


def test_interpolate_prints_conversations_between_two_draws() -> None:
    speaker = responder()
    ends = control.prior_z_conv(speaker, 2)
    for path in ("linear", "spherical"):
        z_conv = control.interpolate(ends[0], ends[1], 4, path)  # type: ignore[arg-type]
        found = control.from_z_conv(speaker, z_conv, 3, same_noise=True)
        printed = objects(typed("interpolate", RUN, "--points", "4", "--path", path, "--json"))
        assert [each["responses"][0]["turns"] for each in printed] == [told(t) for t in found.token_ids]


def test_interpolate_says_when_every_point_says_the_same() -> None:
    """It printed the same conversation seven times without a word."""
    asked = ["interpolate", RUN, "--points", "3", "--turns", "1", "--json"]
    said = CliRunner().invoke(cli.app, [*asked, "--latent-scale", "0"])  # both ends are the origin
    assert "all 3 points gave the same conversation" in said.stderr
    assert len(objects(said.stdout)) == 3
    assert CliRunner().invoke(cli.app, asked).stderr == ""


def test_unknown_words_alone_get_a_remark() -> None:
    said = CliRunner().invoke(cli.app, ["generate", RUN, "zzyzx", "hello"])
    assert said.stderr.count("no word of 'zzyzx' is in the vocabulary") == said.stderr.count("\n") == 1


def test_interpolate_between_two_conversations() -> None:
    speaker = responder()
    texts = ("hello | fine", "the printer is broken")
    heard = [[to_ids(turn, VOCABULARY, 30) for turn in text.split("|")] for text in texts]
    ends = control.posterior_means(speaker, heard)
    found = control.from_z_conv(speaker, control.interpolate(ends[0], ends[1], 3), 2, same_noise=True,
                                opening=to_ids("hello", VOCABULARY, 30).tolist())  # fmt: skip
    printed = objects(
        typed("interpolate", RUN, "--from", texts[0], "--to", texts[1], "--points", "3", "--turns", "2",
              "--opening", "hello", "--json")
    )  # fmt: skip
    assert [each["responses"][0]["turns"] for each in printed] == [told(t) for t in found.token_ids]


CHAT = """hello
/why
/resample
/temperature 2
fine
/temperature 0
/undo
/save {file}
/show
/new
/begin
/nonsense
/undo
/resample
/save
/temperature hot
—
/help
/quit
never said
"""


def test_chat_from_the_first_word_to_quit(tmp_path: Path) -> None:
    file = tmp_path / "said.jsonl"
    output = typed("chat", RUN, input=CHAT.format(file=file))
    replies = [line for line in output.splitlines() if line.startswith("you> model> ")]
    assert len(replies) == 4  # hello, /resample, fine, /begin
    for expected in (
        "kl_conv",
        "sampling at temperature 2",
        "the likeliest words",
        "taken back: you> fine",
        f"saved to {file}",
        "  you> hello",
        "a new conversation",
        "/nonsense is no command",
        "there is no reply yet that another could replace",
        "/save needs the name of a file",
        "/temperature needs a number, not 'hot'",
        "no word in '—'",
        "/resample         another reply",
    ):
        assert expected in output
    assert "never said" not in output
    saved = objects(file.read_text(encoding="utf-8"))
    assert [turn["speaker"] for turn in saved[0]["utterances"]] == ["you", "model"]


def test_a_saved_chat_can_be_continued(tmp_path: Path) -> None:
    file = tmp_path / "said.jsonl"
    typed("chat", RUN, input=f"hello\n/save {file}\n")  # ends with the input
    printed = objects(typed("generate", RUN, "--file", str(file), "--json"))
    assert printed[0]["context"][0] == "hello"
    assert len(printed[0]["context"]) == 2


def test_runs_lists_what_lies_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head, *lines = typed("runs").splitlines()
    assert head.split() == ["run", "bound", "KL", "made", "MLflow"]
    listed = [line.split()[0] for line in lines]
    assert listed == ["invented/hred/0", "invented/vhcr-ud/0", "invented/vhcr-ud/1", "old/vhcr-ud/0"]
    monkeypatch.chdir(tmp_path)
    assert "No trained run" in typed("runs")
    assert "No report" in typed("table")


def test_a_damaged_run_is_named_in_the_list_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One run.json that was cut short ended the list where it stood."""
    monkeypatch.chdir(tmp_path)
    trained_run(tmp_path)
    trained_run(tmp_path, seed=2)
    damaged = Path("data/trained/invented/vhcr-ud/1/run.json")
    damaged.parent.mkdir()
    damaged.write_text("{", encoding="utf-8")
    metrics = {"best_validation": {"nll_per_word": 5.25, "kl_per_word": 0.5}}
    write_json(Path("data/trained/invented/vhcr-ud/0/metrics.json"), metrics)
    _, whole, broken, other = typed("runs").splitlines()
    assert whole.split()[:3] == ["invented/vhcr-ud/0", "5.250", "0.500"]
    assert whole.split()[4:] == ["not", "in", "MLflow"]
    assert broken.startswith(f"invented/vhcr-ud/1 {'':21} {damaged}: not valid JSON")
    assert other.split()[0] == "invented/vhcr-ud/2"


def test_where_mlflow_fails_the_runs_are_listed_before_it_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A server that went away after the first question was a traceback, its password in it."""
    from mlflow.exceptions import MlflowException

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://ann:secret@host/")

    class Unreachable:
        def get_experiment_by_name(self, _: str) -> None:
            raise MlflowException("API request to https://ann:secret@host/api/2.0/x failed")

    monkeypatch.delenv("VHCR_MLFLOW", raising=False)
    monkeypatch.setattr(recording, "client", Unreachable)
    with pytest.raises(SystemExit) as ended:
        cli.main(["runs"])
    assert ended.value.code == 2
    captured = capsys.readouterr()
    assert captured.err == "error: MLflow: API request to https://host/api/2.0/x failed\n"
    assert len(captured.out.splitlines()) == 5


def test_what_cannot_be_done_is_one_line_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('["hello"]\n{"turns": 3}\n', encoding="utf-8")
    cases = {
        ("generate", "nowhere", "hello"): "nowhere: no such trained run",
        ("generate", RUN, "hello |"): "no word in ''",
        ("generate", RUN, "hello", "--top-p", "1.5"): "command line: generation.top_p = 1.5",
        ("generate", RUN, "hello", "--max-words", "1"): "command line: generation.max_words = 1",
        ("generate", RUN, "hello", "--file", str(bad)): "not both",
        ("generate", RUN, "--file", str(bad)): f"{bad}:2: expected a list of utterances",
        ("generate", RUN, "--file", str(tmp_path / "none")): "cannot be read",
        ("generate", RUN, "hello", "--conversations", "2"): "without contexts",
        ("generate", RUN, "hello", "--opening", "hello"): "give --conversations too",
        ("generate", "old/vhcr-ud/0", "--conversations", "1"): "give it an opening",
        ("interpolate", "invented/hred/0"): "'hred' has no z_conv",
        ("interpolate", "old/vhcr-ud/0"): "give it an opening",
        ("import-run", str(tmp_path)): "run.json",
    }
    for arguments, message in cases.items():
        assert message in refused(*arguments, capsys=capsys), arguments


def test_what_is_not_utf8_is_refused_by_its_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Such bytes on standard input or in an argument were tracebacks of codecs."""
    bad = b"\xef\xbb\xbfhello\nfine \xff\n"
    (tmp_path / "bad.jsonl").write_bytes(b'["hello"]\n["fine \xff"]\n')
    deep = tmp_path / "deep.jsonl"
    deep.write_text("[" * 100_000, encoding="utf-8")
    result = CliRunner().invoke(cli.app, ["generate", RUN], input=bad)
    assert str(result.exception) == "standard input:2: not UTF-8"
    context = objects(typed("generate", RUN, "--json", input="\ufeffhello\nfine\n"))[0]["context"]
    assert context == ["hello"], "a byte order mark is no part of the text"
    cases = {
        ("generate", RUN, "--file", str(tmp_path / "bad.jsonl")): "bad.jsonl:2: not UTF-8",
        ("generate", RUN, "--file", str(deep)): "deep.jsonl:1: not valid JSON",
        ("generate", RUN, "fine \udcff"): "'fine \\udcff' cannot be written as UTF-8",
    }
    for arguments, message in cases.items():
        assert message in refused(*arguments, capsys=capsys)


def test_a_line_of_a_chat_that_is_not_utf8_costs_no_other() -> None:
    result = CliRunner().invoke(cli.app, ["chat", RUN], input=b"\xff\nhello\n/show\n")
    assert result.exit_code == 0
    assert "you>   that was not UTF-8\n" in result.stdout
    assert "  you> hello\n" in result.stdout


@pytest.mark.parametrize("command", [("generate", RUN, "hello"), ("chat", RUN), ("interpolate", RUN)])
def test_an_option_that_would_do_nothing_is_refused(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """``--strategy greedy --temperature 9`` spoke greedily without a word, while the server refused it."""
    for options, said in {
        "--strategy greedy --temperature 9": "temperature = 9.0 means nothing to strategy 'greedy'",
        "--strategy sample --beam-size 3": "beam_size = 3 means nothing to strategy 'sample'",
        "--strategy beam --top-k 0": "top_k = 0 means nothing to strategy 'beam'",
        "--top-p 0.5 --length-penalty 0": "length_penalty = 0.0 means nothing to strategy 'sample'",
    }.items():
        assert said in refused(*command, *options.split(), capsys=capsys)


@pytest.mark.parametrize("scale", ["-1", "1001", "1e39", "nan"])
def test_latents_stay_within_what_float32_holds(scale: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A scale of 1e39 made every latent infinite: <unk> thirty times, at a log p of NaN, which is no JSON."""
    said = refused("generate", RUN, "hello", "--json", "--latent-scale", scale, capsys=capsys)
    assert said == f"error: latent_scale = {float(scale)!r}: must be from 0 to 1000\n"


def test_a_seed_is_a_number_of_64_bits() -> None:
    """A larger one was an error of torch."""
    result = CliRunner().invoke(cli.app, ["generate", RUN, "hello", "--seed", str(2**70)])
    assert result.exit_code == 2
    assert "--seed" in result.output
    typed("generate", RUN, "hello", "--strategy", "sample", "--seed", str(2**63 - 1))


def test_damaged_runs_are_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = trained_run(tmp_path)
    (folder / "best.safetensors").write_bytes(b"\0" * 100)
    assert "best.safetensors: not a readable checkpoint" in refused(
        "generate", str(folder), "hi", capsys=capsys
    )


def test_help_imports_nothing_heavy() -> None:
    """``vhcr --help`` takes half a second at most; what could make it slow is not even imported."""
    code = (
        "import sys\n"
        "from vhcr import cli\n"
        "try:\n"
        "    cli.main(['--help'])\n"
        "except SystemExit:\n"
        "    pass\n"
        "heavy = {'torch', 'numpy', 'polars', 'pandas', 'mlflow', 'pydantic', 'pyarrow', 'gensim'}\n"
        "print('imported:', sorted(heavy & set(sys.modules)))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout.splitlines()[-1] == "imported: []"
    for command in ("generate", "chat", "interpolate", "runs", "table", "import-run"):
        assert command in run.stdout
