import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile

from auricle.core.errors import DataError, ModelError, UsageError
from auricle.data.audio import AudioProblem, read_audio
from auricle.inference.load import folder_of, open_model
from auricle.inference.transcribe import Segment, Transcript, pick_device, stream, transcribe
from tests.experiments import run, tiny
from tests.inference.parrot import RATE, bursts, parrot, streaming_parrot
from tests.paths import DATA
from tests.speech import digits_manifest, tone, write_audio

LIBRISPEECH = DATA / "librispeech" / "test-other"


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    run(tiny(folder, manifest=digits_manifest(folder).folder, max_steps=3))
    return folder / "run"


def test_a_clip_is_transcribed_alike_alone_and_among_others(trained, tmp_path):
    clips = [write_audio(tmp_path / f"{n}.wav", seconds=0.3 + 0.21 * n, pitch=150.0 + 60 * n) for n in range(10)]
    model = open_model(str(trained))
    together = [one.text for one in transcribe(model, clips)]
    alone = [next(transcribe(model, [clip])).text for clip in clips]
    assert together == alone
    assert [one.path for one in transcribe(model, clips)] == clips


def test_each_checkpoint_and_the_run_itself_are_models(trained):
    for folder in (trained, *sorted((trained / "checkpoints").glob("step-*"))):
        assert open_model(str(folder)).task.decoders == ("greedy", "beam")


@pytest.mark.parametrize(("name", "said"), [("outputs/none", "no such folder"), ("nowhere", "no such folder")])
def test_a_model_that_is_not_there_is_said(name, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs").mkdir()
    with pytest.raises(ModelError, match=said):
        folder_of(name)


def test_a_folder_without_a_model_names_what_is_near(trained):
    with pytest.raises(ModelError, match=r"holds no config\.json"):
        folder_of(str(trained / "eval"))
    with pytest.raises(ModelError, match=r"Models there: .*run"):
        folder_of(str(trained.parent / "rum"))


def test_bad_audio_decoders_and_devices_are_sentences(trained, tmp_path):
    (tmp_path / "text.wav").write_text("not audio")
    model = open_model(str(trained))
    with pytest.raises(AudioProblem, match="unreadable"):
        list(transcribe(model, [tmp_path / "text.wav"]))
    with pytest.raises(UsageError, match="no decoder 'gredy'"):
        list(transcribe(model, [tmp_path / "text.wav"], decoder="gredy"))
    with pytest.raises(UsageError, match="no device 'gpu'"):
        pick_device("gpu")


def test_the_command_prints_json(trained, tmp_path):
    clip = write_audio(tmp_path / "a.flac", seconds=0.5, rate=44_100, channels=2)
    command = [sys.executable, "-m", "auricle", "transcribe", str(trained), str(clip), "--json", "--decoder", "beam"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["seconds"] == 0.5
    assert found["segments"] == [{"start": 0.0, "stop": 0.5, "text": found["text"]}]


def written(path: Path, *pattern: tuple[float, float]) -> Path:
    soundfile.write(path, bursts(*pattern), RATE, subtype="FLOAT")
    return path


def test_a_long_file_is_its_segments_in_seconds_of_the_file(tmp_path):
    long = written(tmp_path / "long.wav", (2.0, 0.5), (2.0, 0.5), (2.0, 6.0), (3.0, 0.0))
    [found] = transcribe(parrot(), [long])
    assert found.seconds == 16.0
    assert [(one.start, one.stop) for one in found.segments] == [(0.0, 4.75), (4.75, 7.25), (12.75, 16.0)]
    assert [one.text for one in found.segments] == ["38000 samples", "20000 samples", "26000 samples"]
    assert found.text == "38000 samples 20000 samples 26000 samples"


def test_a_segment_in_which_nothing_was_understood_leaves_no_gap_in_the_text(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.inference.parrot.said", lambda samples: "" if len(samples) == 20000 else "words")
    long = written(tmp_path / "long.wav", (2.0, 0.5), (2.0, 0.5), (2.0, 6.0), (3.0, 0.0))
    [found] = transcribe(parrot(), [long])
    assert [one.text for one in found.segments] == ["words", "", "words"]
    assert found.text == "words words"


def test_a_short_file_is_one_segment_with_all_its_samples(tmp_path):
    clip = written(tmp_path / "a.wav", (0.5, 3.0))
    assert list(transcribe(parrot(), [clip])) == [
        Transcript(path=clip, text="28000 samples", seconds=3.5,
                   segments=(Segment(start=0.0, stop=3.5, text="28000 samples"),))]


def test_no_text_depends_on_the_batch_size_and_files_keep_their_order(tmp_path):
    files = [written(tmp_path / f"{n}.wav", *[(0.3 + 0.7 * (n * 5 % 7), 0.3)] * (1 + n % 4)) for n in range(9)]
    one, *others = ([list(transcribe(parrot(), files, batch_size=size))] for size in (1, 3, 8, 100))
    assert all(other == one for other in others)
    assert [found.path for found in one[0]] == files


def test_segments_of_all_files_are_batched_by_length(tmp_path):
    files = [written(tmp_path / f"{n}.wav", (0.5 + 0.5 * (n * 5 % 8), 0.2)) for n in range(8)]
    files.append(written(tmp_path / "long.wav", *[(3.0, 0.5)] * 8))
    assembly = parrot()
    list(transcribe(assembly, files, batch_size=4))
    lengths = [length for batch in assembly.task.batches for length in batch]
    assert lengths == sorted(lengths)
    assert {len(batch) for batch in assembly.task.batches} == {4}
    assert lengths[-1] > 2 * lengths[0]


def test_files_are_read_as_they_are_needed_and_those_before_a_bad_one_are_transcribed(tmp_path):
    files = [written(tmp_path / f"{n}.wav", (0.2 + 0.1 * n, 0.0)) for n in range(12)]
    (tmp_path / "text.wav").write_text("not audio")
    found = transcribe(parrot(), [*files[:10], tmp_path / "text.wav", *files[10:]], batch_size=1)
    assert next(found).path == files[0], "before the bad one is reached"
    assert [next(found).path for _ in range(9)] == files[1:10]
    with pytest.raises(DataError, match=r"text\.wav: unreadable"):
        next(found)


def test_silence_is_an_empty_text_and_no_segment(tmp_path):
    speech = written(tmp_path / "speech.wav", (1.0, 0.0))
    silent = [write_audio(tmp_path / "none.wav", 0.0), written(tmp_path / "short.wav", (0.0, 1.0)),
              written(tmp_path / "long.wav", (0.0, 99.0))]
    found = list(transcribe(parrot(), [silent[0], speech, *silent[1:]]))
    assert [(one.text, one.seconds, len(one.segments)) for one in found] == [
        ("", 0.0, 0), ("8000 samples", 1.0, 1), ("", 1.0, 0), ("", 99.0, 0)]
    assert list(transcribe(parrot(), silent[:1])) == found[:1]
    (tmp_path / "empty.wav").touch()
    with pytest.raises(DataError, match=r"empty\.wav: unreadable"):
        list(transcribe(parrot(), [tmp_path / "empty.wav"]))


def test_progress_is_told_after_each_batch_up_to_the_end(tmp_path):
    files = [written(tmp_path / f"{n}.wav", *[(2.0, 0.5)] * 6) for n in range(2)]
    told = []
    list(transcribe(parrot(), files, batch_size=3, progress=told.append))
    assert told == pytest.approx([11.25, 22.5, 30.0])


def test_streamed_pieces_are_the_text_of_each_segment(tmp_path):
    long = written(tmp_path / "long.wav", *[(2.0, 0.5)] * 3)
    pieces = list(stream(streaming_parrot(), long))
    [whole] = transcribe(streaming_parrot(), [long])
    assert len(pieces) > 2 * len(whole.segments)
    for segment in whole.segments:
        parts = [one.text for one in pieces if (one.start, one.stop) == (segment.start, segment.stop)]
        assert "".join(parts) == segment.text
    assert all(one.start <= other.start for one, other in pairwise(pieces))
    assert list(stream(streaming_parrot(), written(tmp_path / "silent.wav", (0.0, 9.0)))) == []


def test_a_task_that_cannot_stream_names_those_that_can(tmp_path):
    with pytest.raises(UsageError, match=r"task 'parrot' gives its text at once .*; tasks that can: .*without stream"):
        next(stream(parrot(), written(tmp_path / "a.wav", (1.0, 0.0))))


def spoken(folder: Path) -> list[np.ndarray]:
    """Real clips where they are, else tones; a minute and more."""
    found = [path for path in sorted(LIBRISPEECH.rglob("*.flac")) if soundfile.info(path).duration < 10][:16]
    return [read_audio(path, 16000) for path in found] or [tone(4.0 + n % 3, pitch=150.0 + 30 * n) for n in range(16)]


def test_recordings_in_a_row_are_cut_between_them_and_their_text_is_that_of_the_segments(trained, tmp_path):
    clips, pause = spoken(tmp_path), np.zeros(16000, np.float32)
    whole = np.concatenate([part for clip in clips for part in (clip, pause)])
    soundfile.write(tmp_path / "whole.wav", whole, 16000, subtype="FLOAT")
    [found] = transcribe(open_model(str(trained)), [tmp_path / "whole.wav"])
    assert found.seconds == len(whole) / 16000 > 60
    ends = np.cumsum([len(clip) + len(pause) for clip in clips]) / 16000  # of the pauses
    for segment in found.segments[:-1]:
        assert (np.abs(ends - 0.5 - segment.stop) < 0.5).any(), segment
    parts = []
    for number, segment in enumerate(found.segments):
        parts.append(tmp_path / f"{number}.wav")
        samples = whole[round(segment.start * 16000) : round(segment.stop * 16000)]
        soundfile.write(parts[-1], samples, 16000, subtype="FLOAT")
    alone = [one.text for one in transcribe(open_model(str(trained)), parts)]
    assert [segment.text for segment in found.segments] == alone
    assert found.text == " ".join(filter(None, alone))
    assert found.text
