"""`auricle transcribe`: what its options print."""

import json
import re

import pytest
import soundfile
from typer.testing import CliRunner

from auricle.cli.console import transcribing
from auricle.cli.main import app
from auricle.data.tokenizers import Characters
from auricle.inference import load
from auricle.tasks.ctc.config import Config
from auricle.tasks.parts.assembly import assemble
from tests.inference.parrot import RATE, bursts, parrot, streaming_parrot
from tests.models.conformer.test_model import tiny


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    assemble(tiny(), Config(), Characters("abc ")).save(folder)
    return folder


@pytest.fixture
def long(tmp_path):
    soundfile.write(tmp_path / "long.wav", bursts((2.0, 0.5), (2.0, 0.5), (2.0, 0.5)), RATE, subtype="FLOAT")
    return tmp_path / "long.wav"


def run(*arguments):
    return CliRunner().invoke(app, ["transcribe", *map(str, arguments)])


def test_timestamps_are_one_line_a_segment(long, tmp_path, monkeypatch):
    monkeypatch.setattr(load, "open_model", lambda name: parrot())
    lines = ["[0.00 - 4.75] 38000 samples", "[4.75 - 7.25] 20000 samples"]
    assert run("any", long, "--timestamps").stdout.splitlines() == lines
    named = [f"{path}\t{line}" for path in (long, long) for line in lines]
    assert run("any", long, long, "--timestamps").stdout.splitlines() == named
    assert run("any", long).stdout == "38000 samples 20000 samples\n"


def test_json_has_the_segments(model, long):
    found = json.loads(run(model, long, "--json").stdout)
    assert (found["seconds"], found["audio"]) == (7.5, str(long))
    assert found["text"] == " ".join(filter(None, (one["text"] for one in found["segments"])))
    assert [(one["start"], one["stop"]) for one in found["segments"]] == [(0.0, 7.5)], "28 s are allowed"


def test_silence_is_an_empty_line_or_no_segment(tmp_path, monkeypatch):
    monkeypatch.setattr(load, "open_model", lambda name: streaming_parrot())
    soundfile.write(tmp_path / "silent.wav", bursts((0.0, 9.0)), RATE)
    for stdout, *options in (("\n",), ("", "--timestamps"), ("\n", "--stream"), ("", "--stream", "--timestamps")):
        result = run("any", tmp_path / "silent.wav", *options)
        assert (result.exit_code, result.stdout) == (0, stdout)
    assert json.loads(run("any", tmp_path / "silent.wav", "--json").stdout)["segments"] == []


@pytest.mark.parametrize("files", [1, 2])
@pytest.mark.parametrize("options", [[], ["--timestamps"]])
def test_a_stream_grows_to_what_is_printed_without(files, options, long, monkeypatch):
    monkeypatch.setattr(load, "open_model", lambda name: streaming_parrot())
    streamed = run("any", *[long] * files, *options, "--stream")
    assert streamed.exit_code == 0
    assert streamed.stdout == run("any", *[long] * files, *options).stdout


def test_what_cannot_stream_says_so(model, long):
    result = run(model, long, "--stream")
    assert result.exit_code == 2
    said = "error: the task 'ctc' gives its text at once and cannot stream it; tasks that can: "
    assert result.stderr.startswith(said)


@pytest.mark.parametrize(("options", "said"), [
    (["--chunk-seconds", "0.64"], "--chunk-seconds: goes with --stream;"),
    (["--stream", "--batch-size", "2", "--decoder", "beam"], "does not go with --batch-size and --decoder;"),
    (["--stream", "--chunk-seconds", "0.64"], "the task 'ctc' cannot listen to a stream; tasks that can: hybrid."),
    (["--batch-size", "0"], "0 is not in the range x>=1"),
])
def test_options_that_make_no_sense_are_one_sentence(options, said, model, long):
    result = run(model, long, *options)
    assert result.exit_code == 2
    assert said in result.stderr
    assert "Traceback" not in result.output


def test_hotwords_bias_the_beam_and_a_greedy_decoder_names_it(model, long, tmp_path):
    (tmp_path / "words.txt").write_text("# names\ncab\n")
    hotwords = ["--hotwords", tmp_path / "words.txt"]
    said = run(model, long, "--decoder", "beam", *hotwords, "--hotword-bonus", "100")
    assert said.exit_code == 0
    assert "cab" in said.stdout.split()
    assert "cab" not in run(model, long, "--decoder", "beam").stdout.split()
    refused = run(model, long, *hotwords)
    assert refused.exit_code == 2
    assert refused.stderr == ("error: --hotwords: the decoder 'greedy' keeps one hypothesis and cannot prefer any; "
                              "expected a beam. Add --decoder beam\n")


def test_what_is_no_audio_is_one_sentence_after_what_came_before(model, long, tmp_path):
    (tmp_path / "text.wav").write_text("not audio")
    result = run(model, long, tmp_path / "text.wav", "--batch-size", "1")
    assert result.exit_code == 3
    assert result.stdout.startswith(f"{long}\t")
    assert result.stderr.startswith(f"error: {tmp_path}/text.wav: unreadable")


def test_a_terminal_sees_a_bar_for_long_audio_alone_and_a_pipe_none(capsys, monkeypatch):
    def shown(seconds: float, terminal: bool) -> tuple[str, str]:
        monkeypatch.setenv("TTY_COMPATIBLE", str(int(terminal)))
        with transcribing(seconds) as (report, show):
            report(seconds / 2)
            show("a line")
        return tuple(capsys.readouterr())

    out, err = shown(600.0, terminal=True)
    assert out == "a line\n"
    assert re.search(r"Transcribing .* 5\.0 of 10\.0 min of audio", err)
    assert shown(30.0, terminal=True) == ("a line\n", "")
    assert shown(600.0, terminal=False) == ("a line\n", "")
