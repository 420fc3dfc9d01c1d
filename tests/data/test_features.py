import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auricle.data.audio import AudioProblem
from auricle.data.features import Features, Layout, read_features
from auricle.data.prepare import prepare
from auricle.data.sources import csv, jsonl
from tests.corpora import AN4, cepstra, write_mfc


def test_a_sphinx_file_is_its_frames(tmp_path):
    features = cepstra(20)
    found = read_features(write_mfc(tmp_path / "a.mfc", features))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, features)


@pytest.mark.skipif(not AN4.is_dir(), reason="AN4 is not here")
def test_real_files_hold_cepstra_of_speech():
    path, *_ = sorted((AN4 / "feat").rglob("*.mfc"))
    features = read_features(path)
    assert features.shape == ((path.stat().st_size - 4) // 52, 13)
    assert features.std(axis=0)[0] > features.std(axis=0)[12] > 0.01, "the first cepstrum, loudness, varies most"
    assert np.abs(features).max() < 100, "bytes in another order would be anything"


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", ">f4"])
def test_a_numpy_file_may_hold_any_floats(tmp_path, dtype):
    features = cepstra(7, width=80)
    np.save(tmp_path / "a.npy", features.astype(dtype))
    found = read_features(tmp_path / "a.npy", 80)
    assert found.dtype == np.dtype("=f4")
    np.testing.assert_allclose(found, features, atol=2e-3)


def damaged(folder):
    whole = write_mfc(folder / "whole.mfc", cepstra(20)).read_bytes()
    yield "cut.mfc", whole[:-8], "unreadable", "258 floats, its header counts 260"
    yield "long.mfc", whole + b"12345678", "unreadable", "262 floats, its header counts 260"
    yield "odd.mfc", whole[:-3], "unreadable", r"259\.25 floats"
    yield "little.mfc", np.int32(260).tobytes() + cepstra(20).tobytes(), "unreadable", "little-endian"
    yield "width.mfc", write_mfc(folder / "wide.mfc", cepstra(2, width=12)).read_bytes(), "unreadable", "no multiple"
    yield "empty.mfc", b"", "unreadable", "empty file"
    yield "short.mfc", b"\0\0", "unreadable", r"-0\.5 floats"
    yield "empty.npy", b"", "unreadable", "empty file"
    yield "junk.npy", b"junk", "unreadable", "."
    np.save(folder / "objects.npy", np.array([{}]), allow_pickle=True)
    yield "pickled.npy", (folder / "objects.npy").read_bytes(), "unreadable", "allow_pickle"
    np.save(folder / "flat.npy", np.zeros(13, np.float32))
    yield "one.npy", (folder / "flat.npy").read_bytes(), "unreadable", r"float32 of shape \(13,\)"
    np.save(folder / "whole.npy", np.zeros((3, 13), np.int16))
    yield "integers.npy", (folder / "whole.npy").read_bytes(), "unreadable", r"int16 of shape \(3, 13\)"
    np.save(folder / "floats.npy", cepstra(9))
    yield "cut.npy", (folder / "floats.npy").read_bytes()[:-9], "unreadable", "."


def test_a_damaged_file_is_a_problem_with_its_reason(tmp_path):
    for name, content, reason, detail in damaged(tmp_path):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(AudioProblem, match=detail) as caught:
            read_features(tmp_path / name)
        assert caught.value.reason == reason
        assert "expected .mfc or .npy with 13 floats a frame" in str(pickle.loads(pickle.dumps(caught.value)))
    with pytest.raises(AudioProblem, match="no such file"):
        read_features(tmp_path / "nowhere.mfc")


def test_each_damaged_file_of_a_corpus_is_a_counted_rejection(tmp_path):
    content = {name: bytes_ for name, bytes_, _, _ in damaged(tmp_path)}
    gone = cepstra(20)
    gone[3, 4] = np.nan
    content["nan.mfc"] = write_mfc(tmp_path / "x.mfc", gone).read_bytes()
    content["zero.mfc"] = write_mfc(tmp_path / "y.mfc", cepstra(0)).read_bytes()
    content["good.mfc"] = write_mfc(tmp_path / "z.mfc", cepstra(30)).read_bytes()
    for name, bytes_ in content.items():
        (tmp_path / name).write_bytes(bytes_)
    rows = ["id,path,text", *(f"{name},{name},go" for name in content), "absent,absent.mfc,go"]
    (tmp_path / "rows.csv").write_text("\n".join(rows))
    source = csv.Config(files={"train": str(tmp_path / "rows.csv")})
    manifest = prepare(source, tmp_path / "m", workers=1, max_rejected=1.0)
    assert manifest.ids == ["good.mfc"]
    assert manifest.summary["rejected"] == {"unreadable": 13, "not_finite": 1, "zero_length": 1, "missing_file": 1}


def test_tables_name_features_with_their_width_and_rate(tmp_path):
    np.save(tmp_path / "a.npy", cepstra(50, width=80))
    write_mfc(tmp_path / "b.mfc", cepstra(30))
    (tmp_path / "rows.jsonl").write_text('{"audio": "a.npy", "text": "go", "width": 80, "frame_rate": 62.5}\n'
                                         '{"audio": "b.mfc", "text": "stop", "start": 0.1, "stop": 0.25}\n')
    manifest = prepare(jsonl.Config(files={"train": str(tmp_path / "rows.jsonl")}), tmp_path / "m", workers=1)
    assert manifest.layouts == {Layout(80, 62.5), Layout(13, 100.0)}
    assert manifest.where(rows=[1]).layouts == {Layout()}
    assert manifest.seconds.tolist() == [50 / 62.5, 0.15]
    assert manifest.column("media")[0][0]["kind"] == "features"
    part = manifest.row(1)
    np.testing.assert_array_equal(part.audio.read(part.start, part.stop), cepstra(30)[10:25])


@settings(deadline=None)
@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\0"), min_size=1), st.integers(1, 512),
       st.sampled_from([100.0, 50.0, 62.5, 33.333]))
def test_a_reference_leads_back_to_the_features(path, width, rate):
    features = Features(Features(path, Layout()).path, Layout(width, rate))
    found = Features.parse(str(features))
    assert (str(found.path), found.layout) == (str(type(found.path)(path)), features.layout)
    assert Features.parse(path + ".flac") is None
