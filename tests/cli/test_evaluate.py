"""`auricle eval`: what it prints of one decoder, of all of them, and of two models."""

import json
import re

import pytest
import torch
from typer.testing import CliRunner

from auricle.cli.evaluate import _difference
from auricle.cli.main import app
from auricle.core.events import read
from auricle.data.tokenizers import Characters
from auricle.metrics import Counts
from auricle.tasks.ctc.config import Config as Ctc
from auricle.tasks.hybrid.config import Config
from auricle.tasks.parts.assembly import assemble
from auricle.train.evaluate import Evaluation, Scored
from tests.models.conformer.test_model import tiny as tiny_conformer
from tests.speech import digits_manifest
from tests.tasks.hybrid.test_task import EVERY, tiny

LETTERS = "".join(sorted(set("zero one two three four five six seven eight nine")))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Two models that were trained on nothing, and digits of two speakers."""
    torch.manual_seed(0)
    home = tmp_path_factory.mktemp("eval")
    digits_manifest(home, recordings=6)
    for name, seed in (("first", 0), ("second", 1)):
        torch.manual_seed(seed)
        (home / name).mkdir()
        assemble(tiny(), Config(beam_size=2, max_new_tokens=8), Characters(LETTERS)).save(home / name)
    (home / "aligner").mkdir()
    assemble(tiny_conformer(), Ctc(), Characters(LETTERS)).save(home / "aligner")
    return home


def run(home, model, *arguments):
    words = ["eval", home / model, "--data", home / "manifest", "--device", "cpu", *arguments]
    return CliRunner().invoke(app, [*map(str, words)])


def test_one_decoder_tells_its_rates_and_what_they_hide(home):
    done = run(home, "first")
    assert done.exit_code == 0, done.output
    head, wer, edits, rates, decoder, *_ = done.stdout.splitlines()
    assert head.endswith("(100 utterances, 0.01 h)")
    assert re.fullmatch(r"  WER \d+\.\d\d%  95 % interval \[.*%, .*%\]   CER \d+\.\d\d%", wer)
    assert edits.endswith("of 100 words")
    assert re.fullmatch(r"  utterances empty .*%, stuck in a loop .*%, cut off .*%", rates)
    assert decoder.startswith("  decoder joint, normaliser basic 1, ")
    assert "difference" not in done.stdout


def test_all_decoders_stand_beside_each_other_with_the_interval_of_the_joint_one_against_the_best_other(home):
    done = run(home, "first", "--decoder", "all", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    figures = {one["decoder"]: one for one in found["evaluations"]}
    assert tuple(figures) == EVERY
    for decoder, one in figures.items():
        alone = json.loads(run(home, "first", "--decoder", decoder, "--json").stdout)["evaluations"][0]
        same = ("wer", "cer", "substitutions", "utterances", "empty_rate", "repetition_rate", "loss", "decoder")
        assert {name: alone[name] for name in same} == {name: one[name] for name in same}
    best = min(one["wer"] for name, one in figures.items() if name != "joint")
    difference = found["difference"]
    assert (difference["of"], figures[difference["against"]]["wer"]) == ("joint", best)
    assert difference["rate"] == pytest.approx(figures["joint"]["wer"] - best)
    assert difference["low"] <= difference["rate"] <= difference["high"]


def test_the_best_of_the_other_decoders_is_what_the_first_is_measured_against():
    """Errors of each of ten utterances of ten words; the two that have fewest are as good, so that it is the first."""
    def judged(decoder, errors):
        rows = [Scored(id=str(n), source="", seconds=1.0, audio="", start=None, reference="", hypothesis="",
                       counts={"wer": Counts(substitutions=errors + n % 2, reference=10)}) for n in range(10)]
        return "model", Evaluation(dataset="d", decoder=decoder, normalizer="n", normalizer_version="1",
                                   scored=tuple(rows), seconds=1.0, loss=0.0)

    errors = {"joint": 1, "attention": 4, "ctc_beam": 2, "ctc": 2}
    found = _difference([judged(*one) for one in errors.items()], of_models=False)
    assert (found["of"], found["against"]) == ("joint", "ctc_beam")
    assert [found[name] for name in ("rate", "low", "high")] == pytest.approx([-0.1] * 3)
    assert _difference([judged("joint", 1)], of_models=False) is None


def test_all_decoders_are_a_table(home):
    lines = run(home, "first", "--decoder", "all").stdout.splitlines()
    table = lines[lines.index("") + 1 :]
    assert re.split(r" {2,}", table[0]) == ["decoder", "WER", "95 % interval", "CER", "empty", "stuck", "cut",
                                           "× real time"]
    assert [line.split()[0] for line in table[1:6]] == list(EVERY)
    assert re.match(r"difference \(joint − \w+, the best other\): ", lines[-1])


def test_each_evaluation_is_kept_beside_the_model(home):
    run(home, "second", "--decoder", "all")
    told = list(read(home / "second" / "eval" / "evaluations.jsonl"))
    assert [event.values["decoder"] for event in told[-5:]] == list(EVERY)
    kept = home / "second" / told[-1].values["hypotheses"]
    assert len(kept.read_text().splitlines()) == 100
    assert {"repetition_rate", "empty_rate"} <= told[-1].values.keys()
    row = json.loads((home / "second" / told[-5].values["hypotheses"]).read_text().splitlines()[0])
    assert set(row["scores"]) == {"score", "cut"}


def test_two_models_are_compared_by_the_second_less_the_first(home):
    done = run(home, "first", "--compare", str(home / "second"), "--decoder", "ctc", "--json")
    found = json.loads(done.stdout)
    first, second = found["evaluations"]
    assert found["difference"]["rate"] == pytest.approx(second["wer"] - first["wer"])
    assert found["difference"]["of"] == str(home / "second")
    printed = run(home, "first", "--compare", str(home / "second"), "--decoder", "ctc").stdout
    assert "difference (second − first): " in printed


def test_hotwords_reach_the_beams(home, tmp_path):
    (tmp_path / "words.txt").write_text("nine\n")
    plain, biased = (json.loads(run(home, "first", "--decoder", "all", "--json", *more).stdout)["evaluations"]
                     for more in ([], ["--hotwords", tmp_path / "words.txt", "--hotword-bonus", "60"]))
    changed = {one["decoder"]: (one["wer"], one["cer"]) != (other["wer"], other["cer"])
               for one, other in zip(plain, biased, strict=True)}
    assert changed == {"joint": True, "attention_beam": True, "ctc_beam": True, "attention": False, "ctc": False}


def test_a_model_hears_in_chunks_where_it_is_asked_to(home):
    whole, chunks = (json.loads(run(home, "first", "--decoder", "ctc", "--json", *more).stdout)["evaluations"][0]["cer"]
                     for more in ([], ["--chunk-seconds", "0.08"]))
    assert whole != chunks


@pytest.mark.parametrize(("arguments", "said"), [
    (["--decoder", "jiont"], "--decoder: no decoder 'jiont'; did you mean 'joint'?"),
    (["--decoder", "all", "--compare", "x"], "--compare: sets two models beside each other"),
    (["--chunk-seconds", "0.3"], "--chunk-seconds: a chunk of 0.3 s; expected a multiple of 0.08 s"),
    (["--decoder", "ctc", "--hotwords", "nowhere.txt"], "--hotwords: the decoder 'ctc' keeps one hypothesis"),
    (["--hotwords", "nowhere.txt"], "--hotwords: nowhere.txt: cannot be read"),
    (["--hotword-bonus", "2"], "--hotword-bonus: belongs to phrases"),
])
def test_options_that_make_no_sense_are_one_sentence(home, arguments, said):
    done = run(home, "first", *arguments)
    assert (done.exit_code, "Traceback" in done.output) == (2, False)
    assert done.stderr.startswith(f"error: {said}")
    assert done.stderr.count("\n") == 1


def test_a_task_without_chunks_says_so(home):
    done = run(home, "aligner", "--chunk-seconds", "0.64")
    assert done.stderr.startswith("error: --chunk-seconds: the task 'ctc' hears whole utterances alone")
