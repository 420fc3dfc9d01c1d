"""Transcripts of an evaluation: which are shown, what is marked, and what can be heard."""

import base64
import json
from io import BytesIO

import numpy as np
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from auricle.dashboard.transcripts import Clips, Utterance, differences, read_hypotheses, worst_and_best
from auricle.metrics import Counts
from auricle.metrics.wer import score
from tests.runs import hypotheses

WORDS = st.lists(st.sampled_from(["go", "north", "open", "the", "gate"]), max_size=8).map(" ".join)


def utterance(name, substitutions=0, insertions=0, words=4, **values):
    return Utterance(id=name, reference="", hypothesis="", counts=Counts(substitutions, 0, insertions, words), **values)


def write_tone(path, seconds, rate=16000, **how):
    soundfile.write(path, 0.5 * np.sin(np.arange(round(seconds * rate)) * 0.1), rate, **how)
    return str(path)


def heard(address):
    return soundfile.read(BytesIO(base64.b64decode(address.removeprefix("data:audio/flac;base64,"))))


def test_lines_become_utterances_and_broken_lines_are_passed_over(tmp_path):
    rows = hypotheses(tmp_path)
    path = tmp_path / "dev.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '[1]\n{"id": 3}\n{"id": "torn", "refer')
    found = read_hypotheses(path)
    assert [row.id for row in found] == [row["id"] for row in rows]
    assert found[1].counts == Counts(1, 0, 1, 4)
    assert read_hypotheses(tmp_path / "none.jsonl") == []


def test_the_worst_come_by_rate_and_the_best_by_length():
    rows = [utterance("short, right", words=1), utterance("long, right", words=9), utterance("half", 2),
            utterance("all", 4), utterance("quarter", 1), utterance("said nothing, heard two", 0, 2, words=0)]
    worst, best = worst_and_best(rows, each=2)
    assert [row.id for row in worst] == ["said nothing, heard two", "all"]
    assert [row.id for row in best] == ["long, right", "short, right"]


def test_a_small_evaluation_shows_each_utterance_once():
    worst, best = worst_and_best([utterance("wrong", 1), utterance("right")], each=6)
    assert ([row.id for row in worst], [row.id for row in best]) == (["wrong"], ["right"])


def test_where_nothing_was_right_there_is_no_best():
    assert worst_and_best([utterance("a", 4), utterance("b", 4)], each=1)[1] == []


def test_words_that_differ_are_side_by_side():
    found = differences("light the second torch", "light a second torch now")
    assert [(part.same, part.reference, part.hypothesis) for part in found] == [
        (True, "light", "light"), (False, "the", "a"), (True, "second torch", "second torch"), (False, "", "now")]


@given(WORDS, WORDS)
def test_both_texts_are_whole_and_what_is_marked_is_what_was_counted(reference, hypothesis):
    parts = differences(reference, hypothesis)
    assert " ".join(part.reference for part in parts if part.reference) == reference
    assert " ".join(part.hypothesis for part in parts if part.hypothesis) == hypothesis
    marked = sum(max(len(part.reference.split()), len(part.hypothesis.split())) for part in parts if not part.same)
    assert marked == score(reference, hypothesis).errors


def test_a_clip_is_embedded_as_flac_of_the_same_sound(tmp_path):
    audio = write_tone(tmp_path / "a.wav", 0.5, rate=8000, subtype="DOUBLE")
    samples, rate = heard(Clips(tmp_path, 100_000).embed(utterance("a", audio=audio, seconds=0.5))[0])
    assert (rate, len(samples)) == (8000, 4000)
    assert np.abs(samples - 0.5 * np.sin(np.arange(4000) * 0.1)).max() < 1e-4


def test_only_the_utterances_part_of_a_long_recording_is_embedded(tmp_path):
    audio = write_tone(tmp_path / "talk.wav", 10)
    samples, _ = heard(Clips(tmp_path, 1_000_000).embed(utterance("a", audio=audio, start=9.0, seconds=0.25))[0])
    assert len(samples) == 4000
    assert np.abs(samples - 0.5 * np.sin(np.arange(144_000, 148_000) * 0.1)).max() < 1e-4


def test_clips_that_are_too_much_together_are_left_out_and_smaller_ones_still_fit(tmp_path):
    long, short = (write_tone(tmp_path / f"{seconds}.wav", seconds) for seconds in (4, 0.1))
    clips = Clips(tmp_path, max_bytes=len(Clips(tmp_path, 10**9).embed(utterance("long", audio=long))[0]) + 10_000)
    assert clips.embed(utterance("1", audio=long)) [1] == ""
    assert clips.embed(utterance("2", audio=long)) == ("", "left out, to keep this page small")
    assert clips.embed(utterance("3", audio=short))[1] == ""


def test_a_clip_beside_the_run_is_found_by_its_relative_name(tmp_path):
    write_tone(tmp_path / "a.wav", 0.1)
    assert Clips(tmp_path, 100_000).embed(utterance("a", audio="a.wav"))[0].startswith("data:audio/flac;base64,")


def test_audio_that_cannot_be_had_says_why(tmp_path):
    (tmp_path / "text.wav").write_text("this is no audio")
    clips = Clips(tmp_path, 100_000)
    assert "cannot be read" in clips.embed(utterance("a", audio="text.wav"))[1]
    assert "not there" in clips.embed(utterance("b", audio="gone.wav"))[1]
    assert "names no audio" in clips.embed(utterance("c"))[1]
    assert "as features" in clips.embed(utterance("d", audio=f"{tmp_path}/d.mfc#width=13&frame_rate=100"))[1]
