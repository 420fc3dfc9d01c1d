"""The model card: what the hub reads and what people read, both from the run's events alone."""

import json
import subprocess
import sys

import pytest
from huggingface_hub import ModelCard

from auricle.core.events import EventLog
from auricle.dashboard.card import card
from tests.runs import CONFIG, write_run

HUB = {"hub": "openai/whisper-tiny", "revision": "abc123", "hash": "0" * 32}
SPEECH_LLM = {
    "model": {"kind": "speech_llm", "encoder": {"kind": "whisper", "pretrained": "openai/whisper-tiny"},
              "decoder": {"pretrained": "HuggingFaceTB/SmolLM3-3B", "config": {}}, "projector": {"kind": "swiglu"}},
    "data": {"datasets": {"dev": {"source": {"kind": "parquet", "splits": {
        "train": ["hf://datasets/speechbrain/LoquaciousSet/large/train-*.parquet"]}}, "eval_split": "dev"}}},
}


def add_checkpoint(folder, step, **parts):
    path = folder / "checkpoints" / f"step-{step:09d}"
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps({"model": {}, "parts": parts}))
    return path


def append(folder, *events):
    log = EventLog(folder / "events.jsonl", run=folder.name)
    for kind, values in events:
        log.write(kind, **values)
    log.close()


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "my run")


def test_the_head_has_what_the_hub_shows_and_searches(run):
    append(run, ("run", {"config": SPEECH_LLM, "versions": {"auricle": "0.2"}}),
           ("data", {"dataset": "dev", "utterances": 5, "audio_hours": 1.5, "languages": ["en", "klingon"]}),
           ("eval", {"step": 700, "dataset": "dev", "wer": 0.2, "cer": 0.1, "decoder": "greedy", "normalizer": "basic",
                     "normalizer_version": "1", "wer_low": 0.15, "wer_high": 0.25}))
    head = ModelCard(card(run, add_checkpoint(run, 700, encoder=HUB), "me/x")).data.to_dict()
    assert head["library_name"] == "auricle"
    assert head["pipeline_tag"] == "automatic-speech-recognition"
    assert head["base_model"] == ["openai/whisper-tiny", "HuggingFaceTB/SmolLM3-3B"]
    assert head["datasets"] == ["speechbrain/LoquaciousSet"]
    assert head["language"] == ["en"]
    assert head["tags"] == ["auricle", "speech_llm"]
    assert head["metrics"] == ["cer", "wer"]
    (index,) = head["model-index"]
    (result,) = index["results"]
    assert index["name"] == "my run"
    assert result["dataset"] == {"name": "dev", "type": "speechbrain/LoquaciousSet", "split": "dev"}
    assert result["metrics"][0] == {"type": "wer", "value": 20.0, "name": "WER", "args": {
        "normalizer": "basic 1", "decoder": "greedy", "interval_95": [15.0, 25.0]}}


def test_the_page_tells_what_was_measured_up_to_the_checkpoint_and_nothing_later(run):
    page = card(run, add_checkpoint(run, 400), "me/x")
    assert "as it was at step 400" in page
    assert "| dev (fixed random subset) | 6 | 22 | **42.7 %** | 40.7 – 44.7 % | 14.2 % | greedy | basic 1 |" in page
    assert "22.7 %" not in page, "that is step 600"
    assert "| main | encoder 1,600,000, head 34,816 | 4,210 | 2.00 | 600 steps |" in page
    assert "1,634,816 parameters in all." in page
    for row in ("Steps | 400 of 600", "Wall time | 6 min 40 s", "Audio heard | 8.00 hours", "Cost | $0.40"):
        assert f"| {row} |" in page
    assert "auricle train +experiments=quickstart\n" in page
    assert "auricle transcribe me/x recording.wav" in page
    assert "auricle 0.1.0, torch 2.13.0, python 3.11.9; git 1f2e3d4." in page
    assert "–\x20|" not in page.replace("40.7 – 44.7", ""), "what is unknown is left out"


def test_what_is_not_known_is_left_out(tmp_path):
    folder = tmp_path / "bare"
    folder.mkdir()
    append(folder, ("run", {"config": CONFIG | {"data": {"datasets": {"dev": {"manifest": "m"}}}}}),
           ("train", {"stage": "main", "step": 10, "loss": 2.0}))
    page = card(folder, add_checkpoint(folder, 10), "me/x")
    head = ModelCard(page).data.to_dict()
    assert head.keys() == {"library_name", "pipeline_tag", "tags"}
    for absent in ("## Results", "## Training data", "parameters in all", "Versions", "Cost", "hub", "nan", "None"):
        assert absent not in page
    assert "| Loss | 2.0000 |" in page


def test_a_checkpoint_that_nobody_evaluated_has_no_result(run):
    page = card(run, add_checkpoint(run, 450), "me/x")
    assert "## Results" not in page
    assert "model-index" not in ModelCard(page).data.to_dict()


def test_hours_are_summed_over_stages_and_each_is_a_row(run):
    append(run, ("derived", {"stage": "more|less", "utterances": 7, "audio_hours": 0.5}),
           ("stage", {"stage": "more|less", "step": 600, "components": {"lora": 5}, "trainable": 5, "parameters": 9,
                      "ends": "100 steps"}),
           ("train", {"stage": "more|less", "step": 650, "audio_hours": 3.0}))
    page = card(run, add_checkpoint(run, 650), "me/x")
    assert r"| more\|less | lora 5 | 7 | 0.50 | 100 steps |" in page
    assert "| Audio heard | 15.00 hours |" in page
    assert "9 parameters in all." in page


def test_each_data_set_has_its_hours_as_the_last_start_of_the_run_counted_them(run):
    append(run, ("run", {"config": SPEECH_LLM}),
           ("data", {"dataset": "dev", "utterances": 5, "audio_hours": 1.5, "languages": ["en"]}),
           ("data", {"dataset": "dev", "utterances": 4, "audio_hours": 1.25, "languages": ["en"]}),
           ("data", {"dataset": "streamed"}),
           ("save", {"step": 700}))
    page = card(run, add_checkpoint(run, 700), "me/x")
    assert "| dev (speechbrain/LoquaciousSet) | 4 | 1.25 | en |" in page
    assert "| streamed | – | – | – |" in page


def test_parts_that_the_hub_has_are_named_with_their_revision(run):
    checkpoint = add_checkpoint(run, 200, encoder=HUB, decoder={"part": "f" * 32})
    page = card(run, checkpoint, "me/x", usage="Load {repository} as {it: is}.")
    assert "| encoder | openai/whisper-tiny | `abc123` |" in page
    assert "decoder |" not in page
    assert "## Use\n\nLoad me/x as {it: is}.\n" in page


def test_a_folder_here_is_no_model_of_the_hub(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "local/encoder").mkdir(parents=True)
    model = {"kind": "speech_llm", "encoder": {"pretrained": "local/encoder"}, "decoder": {"pretrained": "/abs/x"}}
    append(run, ("run", {"config": {"model": model}}), ("save", {"step": 700}))
    assert "base_model" not in ModelCard(card(run, add_checkpoint(run, 700), "me/x")).data.to_dict()


def test_it_is_written_without_torch():
    code = "import sys; sys.modules['torch'] = None; import auricle.dashboard.card"
    subprocess.run([sys.executable, "-c", code], check=True)
