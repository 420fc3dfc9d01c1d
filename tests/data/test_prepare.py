import json
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pyarrow as pa
import pytest
import soundfile

from auricle.core.errors import DataError
from auricle.data import merge
from auricle.data import prepare as module
from auricle.data.audio import read_audio
from auricle.data.judge import Checks
from auricle.data.manifest import Manifest
from auricle.data.prepare import folder_of, prepare, prepared
from auricle.data.sources import folder as folder_source
from auricle.data.sources import fsdd, jsonl
from tests.paths import ROOT
from tests.speech import digits, write_audio, write_digits

FILES = ("manifest.parquet", "manifest.arrow", "rejections.parquet", "summary.json")

KILLED = """
import os, signal, sys
from pathlib import Path
import psutil
from auricle.data.prepare import prepare
from auricle.data.sources import fsdd

def progress(done, rows, seconds):
    if done >= rows / 3:
        print(*(child.pid for child in psutil.Process().children(recursive=True)), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    prepare(fsdd.Config(folder=sys.argv[1]), Path(sys.argv[2]), workers=int(sys.argv[3]), progress=progress)
"""


def content(folder):
    return {name: (folder / name).read_bytes() for name in FILES}


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return jsonl.Config(files={"train": str(path)})


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Enough utterances for several shards."""
    return write_digits(tmp_path_factory.mktemp("corpus"), ["anna", "ben", "cora"], 10)


@pytest.fixture(scope="module")
def uninterrupted(corpus, tmp_path_factory):
    return prepare(fsdd.Config(folder=str(corpus)), tmp_path_factory.mktemp("whole") / "m", workers=1)


def test_a_corpus_becomes_a_manifest_with_a_summary(tmp_path):
    source = digits(tmp_path)
    manifest = prepare(fsdd.Config(folder=str(source)), tmp_path / "m", workers=1)
    recordings = sorted((source / "recordings").glob("*.wav"))
    durations = [soundfile.info(path).duration for path in recordings]
    summary = manifest.summary
    assert len(manifest) == summary["utterances"] == len(recordings)
    assert manifest.seconds.sum() == pytest.approx(sum(durations))
    assert summary["hours"] == pytest.approx(sum(durations) / 3600)
    assert summary["splits"]["test"]["utterances"] == sum(int(path.stem.rpartition("_")[2]) < 5 for path in recordings)
    assert sum(split["hours"] for split in summary["splits"].values()) == pytest.approx(summary["hours"])
    assert summary["seconds"]["longest"] == pytest.approx(max(durations), abs=1e-3)
    assert summary["alphabet"] == "".join(sorted(set("".join(fsdd.DIGITS))))
    assert summary["languages"] == {"en": len(recordings)}
    assert summary["speakers"] == len({path.stem.split("_")[1] for path in recordings})
    assert summary["filtered"] == summary["rejected"] == {}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_preparation_goes_on_and_gives_the_same_bytes(corpus, uninterrupted, tmp_path, workers):
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    target = tmp_path / "m"
    killed = subprocess.run([sys.executable, script, corpus, target, str(workers)], capture_output=True, text=True,
                            env={**os.environ, "PYTHONPATH": str(ROOT / "src")}, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not target.exists()
    reports = []
    manifest = prepare(fsdd.Config(folder=str(corpus)), target, workers=1, progress=lambda *at: reports.append(at))
    assert reports[0][0] >= 100, "the shards of the killed process were made again"
    assert reports[-1][:2] == (300, 300)
    assert reports[-1][2] == pytest.approx(manifest.seconds.sum())
    assert content(target) == content(uninterrupted.folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed.py", "m"]
    orphans = [psutil.Process(int(pid)) for pid in killed.stdout.split() if psutil.pid_exists(int(pid))]
    assert not psutil.wait_procs(orphans, timeout=30)[1], "workers outlived the killed process"


def test_the_number_of_workers_changes_nothing(corpus, uninterrupted, tmp_path):
    manifest = prepare(fsdd.Config(folder=str(corpus)), tmp_path / "m", workers=2)
    assert content(manifest.folder) == content(uninterrupted.folder)


def test_small_shards_are_joined_into_batches(corpus, uninterrupted, tmp_path, monkeypatch):
    def batches(folder):
        return pa.ipc.open_file(pa.memory_map(str(folder / "manifest.arrow"))).num_record_batches

    monkeypatch.setattr(merge, "BATCH_ROWS", 100)
    manifest = prepare(fsdd.Config(folder=str(corpus)), tmp_path / "m", workers=1)
    assert (batches(uninterrupted.folder), batches(manifest.folder)) == (1, 3)
    assert [manifest.row(i) for i in range(300)] == [uninterrupted.row(i) for i in range(300)]
    assert manifest.where(split="test").seconds.tolist() == uninterrupted.where(split="test").seconds.tolist()


def test_a_half_written_shard_is_made_again(corpus, uninterrupted, tmp_path, monkeypatch):
    config = fsdd.Config(folder=str(corpus))
    with monkeypatch.context() as patch:
        patch.setattr(module, "merge", lambda *_: (_ for _ in ()).throw(DataError("stopped before the end")))
        with pytest.raises(DataError, match="stopped"):
            prepare(config, tmp_path / "m", workers=1)
    shards = sorted((tmp_path / "m.preparing" / "shards").iterdir())
    shards[1].write_bytes(shards[1].read_bytes()[:-300])
    shards[2].unlink()
    reports = []
    prepare(config, tmp_path / "m", workers=1, progress=lambda *at: reports.append(at))
    assert reports[0][0] == 300 - 2 * 64
    assert content(tmp_path / "m") == content(uninterrupted.folder)


def test_a_preparation_of_another_source_starts_anew(corpus, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(module, "merge", lambda *_: (_ for _ in ()).throw(DataError("stopped before the end")))
        with pytest.raises(DataError):
            prepare(fsdd.Config(folder=str(corpus)), tmp_path / "m", workers=1)
    config, reports = fsdd.Config(folder=str(corpus), test_speakers=["ben"]), []
    manifest = prepare(config, tmp_path / "m", workers=1, progress=lambda *at: reports.append(at))
    assert reports[0][0] == 0
    assert set(manifest.where(split="test").column("speaker")) == {"ben"}


def test_what_is_published_is_opened_and_not_made_again(corpus, uninterrupted, monkeypatch):
    monkeypatch.setattr(module, "find", lambda *_: pytest.fail("the source was read again"))
    again = prepare(fsdd.Config(folder=str(corpus)), uninterrupted.folder)
    assert again.fingerprint == uninterrupted.fingerprint


def test_a_published_folder_is_never_overwritten(corpus, uninterrupted):
    before = content(uninterrupted.folder)
    with pytest.raises(DataError, match=r'test_speakers \[\], asked for \["ben"\].*another folder'):
        prepare(fsdd.Config(folder=str(corpus), test_speakers=["ben"]), uninterrupted.folder)
    with pytest.raises(DataError, match="another preparation"):
        prepare(fsdd.Config(folder=str(corpus)), uninterrupted.folder, checks=Checks(max_seconds=0.3))
    assert content(uninterrupted.folder) == before


def test_a_folder_with_other_things_is_left_alone(corpus, tmp_path):
    (tmp_path / "diary.txt").write_text("mine")
    with pytest.raises(DataError, match="exists and is no manifest"):
        prepare(fsdd.Config(folder=str(corpus)), tmp_path, workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["diary.txt"]


def test_an_empty_folder_may_be_the_target(corpus, uninterrupted, tmp_path):
    assert prepare(fsdd.Config(folder=str(corpus)), tmp_path, workers=1).fingerprint == uninterrupted.fingerprint


def test_two_at_once_share_the_work(corpus, tmp_path):
    reports = []

    def one(_):
        return prepare(fsdd.Config(folder=str(corpus)), tmp_path / "m", workers=1,
                       progress=lambda *at: reports.append(at))

    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(one, range(2))
    assert first.fingerprint == second.fingerprint
    assert [done for done, *_ in reports] == [0, 64, 128, 192, 256, 300], "both of them worked"
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_prepared_names_the_folder_after_the_config(corpus, tmp_path):
    first, second = fsdd.Config(folder=str(corpus)), fsdd.Config(folder=str(corpus), dev_recordings=[5])
    one, two = prepared(first, tmp_path, "digits", workers=1), prepared(second, tmp_path, "digits", workers=1)
    assert one.folder == folder_of(first, tmp_path, "digits") != two.folder == folder_of(second, tmp_path, "digits")
    assert one.folder.name.startswith("digits-")
    assert prepared(first, tmp_path, "digits", workers=1).fingerprint == one.fingerprint != two.fingerprint


def test_an_edited_transcript_file_is_another_source(tmp_path):
    write_audio(tmp_path / "a.wav")
    config = write_rows(tmp_path / "rows.jsonl", [{"audio": "a.wav", "text": "one"}])
    prepare(config, tmp_path / "m", workers=1)
    before = folder_of(config, tmp_path, "m")
    write_rows(tmp_path / "rows.jsonl", [{"audio": "a.wav", "text": "two"}])
    assert folder_of(config, tmp_path, "m") != before
    with pytest.raises(DataError, match="files that it was made from, have changed"):
        prepare(config, tmp_path / "m", workers=1)


def damaged_corpus(folder):
    """Two sound clips and one for each thing that decoding can find wrong."""
    names = ["good", "stereo", "text", "cut", "missing", "nan", "none", "silent"]
    write_audio(folder / "good.wav", 1.0)
    write_audio(folder / "stereo.mp3", 1.0, 44100, 2)
    (folder / "text.wav").write_text("these are words\n" * 99)
    whole = write_audio(folder / "cut.flac", 2.0).read_bytes()
    (folder / "cut.flac").write_bytes(whole[: len(whole) // 2])
    soundfile.write(folder / "nan.wav", np.array([0, np.nan, 0], np.float32), 16000, subtype="FLOAT")
    write_audio(folder / "none.wav", 0.0)
    write_audio(folder / "silent.ogg", 1.0)
    suffixes = {"stereo": "mp3", "cut": "flac", "silent": "ogg"}
    rows = [{"audio": f"{name}.{suffixes.get(name, 'wav')}", "text": "hello"} for name in names]
    return write_rows(folder / "rows.jsonl", [*rows[:-1], {**rows[-1], "text": ""}])


def test_each_damage_is_found_and_named(tmp_path):
    manifest = prepare(damaged_corpus(tmp_path), tmp_path / "m", workers=1, max_rejected=0.9)
    assert manifest.ids == ["good", "stereo"]
    assert {r.id: r.reason for r in manifest.rejections} == {
        "text": "unreadable", "cut": "unreadable", "missing": "missing_file", "nan": "not_finite",
        "none": "zero_length", "silent": "empty_transcript"}
    assert manifest.summary["rejected"] == {"unreadable": 2, "missing_file": 1, "not_finite": 1, "zero_length": 1,
                                            "empty_transcript": 1}
    assert len(read_audio(manifest.row(1).audio, 16000)) == pytest.approx(16000, abs=2)


def test_what_lies_outside_the_bounds_is_filtered_and_needs_no_pardon(tmp_path):
    rows = []
    for seconds in (0.2, 1.0, 3.0):
        write_audio(tmp_path / f"{seconds}s.wav", seconds)
        rows.append({"audio": f"{seconds}s.wav", "text": "go"})
    manifest = prepare(write_rows(tmp_path / "r.jsonl", rows), tmp_path / "m", workers=1, max_rejected=0.0,
                       checks=Checks(min_seconds=0.5, max_seconds=2.0))
    assert manifest.seconds.tolist() == [1.0]
    assert manifest.summary["filtered"] == {"too_short": 1, "too_long": 1}
    assert all(rejection.filtered for rejection in manifest.rejections)


def test_too_much_damage_stops_and_a_mended_file_is_looked_at_again(corpus, tmp_path):
    broken = shutil.copytree(corpus, tmp_path / "corpus")
    sound = (broken / "recordings" / "5_ben_5.wav").read_bytes()
    (broken / "recordings" / "5_ben_5.wav").write_bytes(sound[:30])
    config, reports = fsdd.Config(folder=str(broken)), []
    with pytest.raises(DataError, match=r"1 of 300 rows rejected .*5_ben_5: unreadable.*max_rejected"):
        prepare(config, tmp_path / "m", workers=1, max_rejected=0.0)
    assert not (tmp_path / "m").exists()
    (broken / "recordings" / "5_ben_5.wav").write_bytes(sound)
    manifest = prepare(config, tmp_path / "m", workers=1, max_rejected=0.0, progress=lambda *at: reports.append(at))
    assert reports[0][0] == 300 - 64, "sound shards stay, the one with the broken row goes"
    assert len(manifest) == 300


def test_a_higher_max_rejected_publishes_what_is_sound(tmp_path):
    config = damaged_corpus(tmp_path)
    with pytest.raises(DataError, match="6 of 8 rows rejected"):
        prepare(config, tmp_path / "m", workers=1)
    assert len(prepare(config, tmp_path / "m", workers=1, max_rejected=0.75)) == 2


def test_repeated_ids_are_named(tmp_path):
    write_audio(tmp_path / "a.wav")
    row = {"audio": "a.wav", "text": "one"}
    with pytest.raises(DataError, match="1 ids occur more than once, as a;"):
        prepare(write_rows(tmp_path / "r.jsonl", [row, row]), tmp_path / "m", workers=1)
    assert len(prepare(write_rows(tmp_path / "r.jsonl", [row, {**row, "id": "b"}]), tmp_path / "m", workers=1)) == 2


def test_an_empty_data_set_is_refused(tmp_path):
    (tmp_path / "corpus").mkdir()
    with pytest.raises(DataError, match="the data set is empty"):
        prepare(folder_source.Config(folder=str(tmp_path / "corpus")), tmp_path / "m", workers=1)
    assert not (tmp_path / "m").exists()


def test_a_missing_corpus_is_one_sentence(tmp_path):
    with pytest.raises(DataError, match=r"^fsdd: no folder '.*nowhere'.*Correct 'folder'$"):
        prepare(fsdd.Config(folder=str(tmp_path / "nowhere")), tmp_path / "m", workers=1)
    assert list(tmp_path.iterdir()) == []


def test_a_target_that_cannot_be_written_is_one_sentence(corpus, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="expected a place that can be written"):
        prepare(fsdd.Config(folder=str(corpus)), tmp_path / "file" / "m", workers=1)
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(0o500)
    if not os.access(locked, os.W_OK):  # root may write anywhere
        with pytest.raises(DataError, match="Permission denied"):
            prepare(fsdd.Config(folder=str(corpus)), locked / "m", workers=1)


def test_an_open_manifest_is_what_was_prepared(uninterrupted):
    assert Manifest.open(uninterrupted.folder).ids == uninterrupted.ids
