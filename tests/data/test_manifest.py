import json
import pickle
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from auricle.core.errors import DataError
from auricle.data.audio import read_audio
from auricle.data.manifest import Manifest
from auricle.data.prepare import prepare
from auricle.data.sources import jsonl
from tests.speech import digits_manifest, write_audio


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return digits_manifest(tmp_path_factory.mktemp("digits"))


def test_columns_and_rows_agree(manifest):
    assert len(manifest) == 140
    for i in (0, 17, 139):
        row = manifest.row(i)
        assert (row.id, row.text, row.seconds) == (manifest.ids[i], manifest.texts[i], manifest.seconds[i])
        assert row.split == manifest.column("split")[i]
        assert (row.speaker, row.language, row.source) == (row.id.split("_")[1], "en", "fsdd")
    assert manifest.seconds.dtype == np.float64


def test_a_row_leads_to_its_audio(manifest):
    row = manifest.row(3)
    assert row.audio.is_absolute()
    assert len(read_audio(row.audio, 8000, row.start, row.stop)) == round(row.seconds * 8000)


def test_the_parquet_file_is_the_same_table(manifest):
    table = pq.read_table(manifest.folder / "manifest.parquet")
    assert table["id"].to_pylist() == manifest.ids
    assert table["lengths"].to_pylist()[5] == {"seconds": manifest.seconds[5], "tokens": None, "pixels": None}
    assert table["media"].to_pylist()[5][0]["kind"] == "audio"


def test_a_split_is_a_view_of_its_rows(manifest):
    test = manifest.where(split="test")
    assert set(test.column("split")) == {"test"}
    assert test.ids == [manifest.ids[i] for i in test.rows]
    assert test.row(4).id == test.ids[4]
    assert len(test) + len(manifest.where(split="train")) == len(manifest)
    assert len(manifest.where(split="nowhere")) == 0


@given(data=st.data())
def test_views_of_views_choose_like_arrays(manifest, data):
    first = data.draw(st.lists(st.integers(0, len(manifest) - 1), max_size=20))
    second = data.draw(st.lists(st.integers(0, len(first) - 1), max_size=20)) if first else []
    view = manifest.where(rows=first).where(rows=second)
    np.testing.assert_array_equal(view.rows, np.asarray(first, np.int64)[np.asarray(second, np.int64)])
    assert view.ids == [manifest.ids[i] for i in view.rows]
    np.testing.assert_array_equal(view.seconds, manifest.seconds[view.rows])


def test_split_and_rows_together_keep_the_order_of_the_rows(manifest):
    view = manifest.where(split="test", rows=[139, 0, 138, 1])
    assert view.ids == [i for i in (manifest.ids[n] for n in (139, 0, 138, 1)) if i.rpartition("_")[2] in "01234"]


def test_the_fingerprint_covers_file_and_selection(manifest):
    first, second = manifest.where(rows=[0, 1]), manifest.where(rows=[1, 0])
    assert manifest.fingerprint == manifest.summary["fingerprint"] == Manifest.open(manifest.folder).fingerprint
    assert len({manifest.fingerprint, first.fingerprint, second.fingerprint}) == 3
    assert first.fingerprint == manifest.where(rows=np.array([0, 1])).fingerprint


def test_a_manifest_survives_the_way_to_a_worker(manifest):
    view = manifest.where(split="test")
    for sent in (manifest, view):
        received = pickle.loads(pickle.dumps(sent))
        assert received.fingerprint == sent.fingerprint
        assert received.row(7) == sent.row(7)
    assert len(pickle.dumps(manifest)) < 1000


def test_an_unknown_column_is_answered_with_the_nearest(manifest):
    with pytest.raises(DataError, match="did you mean 'speaker'"):
        manifest.column("speakr")


def test_segments_and_prompts_come_back(tmp_path):
    write_audio(tmp_path / "long.wav", 3.0)
    rows = [{"audio": "long.wav", "text": "one", "start": 0.5, "stop": 1.25, "prompt": "transcribe"},
            {"audio": "long.wav", "text": "two", "start": 2.0}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    manifest = prepare(jsonl.Config(files={"train": str(tmp_path / "a.jsonl")}), tmp_path / "m", workers=1)
    assert [(r.start, r.stop, r.seconds, r.prompt) for r in map(manifest.row, range(2))] == [
        (0.5, 1.25, 0.75, "transcribe"), (2.0, None, 1.0, "")]


def test_rejections_are_kept(tmp_path):
    for name in ("a", "b"):
        write_audio(tmp_path / f"{name}.wav")
    soundfile.write(tmp_path / "nan.wav", np.full(800, np.nan, np.float32), 8000, subtype="FLOAT")
    rows = [{"audio": f"{name}.wav", "text": "x"} for name in ("a", "nan", "b")]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = jsonl.Config(files={"train": str(tmp_path / "a.jsonl")})
    manifest = prepare(config, tmp_path / "m", workers=1, max_rejected=0.5)
    assert [(r.id, r.reason) for r in manifest.rejections] == [("nan", "not_finite")]
    assert manifest.ids == ["a", "b"]


def test_what_is_no_manifest_is_refused_with_what_to_do(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError, match=r"no manifest.*auricle data prepare"):
            Manifest.open(path)


@pytest.mark.parametrize("name", ["manifest.parquet", "manifest.arrow", "summary.json"])
def test_a_cut_file_is_noticed(manifest, tmp_path, name):
    copy = shutil.copytree(manifest.folder, tmp_path / "copy")
    whole = (copy / name).read_bytes()
    (copy / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=rf"{name}: damaged"):
        Manifest.open(copy)
    (copy / name).unlink()
    with pytest.raises(DataError):
        Manifest.open(copy)
