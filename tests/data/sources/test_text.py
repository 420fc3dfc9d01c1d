import numpy as np

from auricle.data.grammar import HELD_OUT_PERCENT, Text, split_of
from auricle.data.judge import CHARACTERS_A_SECOND
from auricle.data.loader import EvaluationSet, Rows
from auricle.data.prepare import prepare
from auricle.data.sources import synth
from auricle.data.sources.text import Config, candidates


def sample(_folder) -> Config:
    return Config(text=Text(grammar="game_commands"), sentences=40)


def test_sentences_that_synthetic_speech_holds_out_are_left_out():
    found = [one.text for one in candidates(Config(text=Text(grammar="game_commands"), sentences=400))]
    assert 250 < len(found) < 400
    assert all(split_of(text, HELD_OUT_PERCENT) == "train" for text in found)
    speech = synth.Config(utterances=1, dev_utterances=20, test_utterances=20)
    spoken = {one.text for one in synth.candidates(speech) if one.split != "train"}
    assert not spoken & set(found)


def test_lines_of_a_file_are_taken_too(tmp_path):
    (tmp_path / "lines.txt").write_text("\n".join(f"line {number}" for number in range(50)))
    assert {one.text.split()[0] for one in candidates(Config(text=Text(file=str(tmp_path / "lines.txt"))))} == {"line"}


def test_rows_of_text_have_no_audio_and_the_length_of_speaking_them(tmp_path):
    told = []
    manifest = prepare(sample(tmp_path), tmp_path / "manifest", workers=1, progress=lambda *done: told.append(done[2]))
    assert set(told) == {0.0}, "no hours of audio are made"
    assert not manifest.has_audio.any()
    assert (manifest.summary["hours"], manifest.summary["splits"]["train"]["hours"]) == (0, 0)
    np.testing.assert_allclose(manifest.seconds, [len(text) / CHARACTERS_A_SECOND for text in manifest.texts])
    rows = Rows([manifest], ["transcribe"])
    assert rows.audio_seconds == 0
    data = EvaluationSet(rows, collate=list, sample_rate=16_000)
    one, = data[[3]]
    assert (one.audio, one.seconds, one.text, one.heard) == (None, 0.0, manifest.texts[3], manifest.texts[3])
    assert one.instruction == "transcribe"
