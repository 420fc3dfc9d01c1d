import json
import os
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from auricle.core.errors import DataError
from auricle.data import remote_files
from auricle.data.audio import read_audio
from auricle.data.prepare import prepare, source_hash
from auricle.data.row_groups import footer
from auricle.data.sources.parquet import Config, candidates, pieces
from tests.hub import be_the_hub
from tests.parquet import seconds_of, text_of, write_parts
from tests.ranges import serving


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("AURICLE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote_files, "FIRST_WAIT_SECONDS", 0.001)
    monkeypatch.setattr(remote_files, "_file_systems", {})
    footer.cache_clear()


def sample(folder):
    """A small config of this source, for the contract."""
    write_parts(folder / "train", files=2, groups=2, rows=3)
    dev = write_parts(folder / "dev", files=1, groups=1, rows=2, name="dev", first=100)
    return Config(splits={"train": [f"{folder}/train/*.parquet"], "dev": [str(path) for path in dev]})


def test_rows_are_named_by_their_file_and_number(tmp_path):
    found = list(candidates(sample(tmp_path)))
    assert [c.id for c in found[:4]] == [f"train-00000-of-00002-{number}" for number in range(4)]
    assert [c.id for c in found[-2:]] == ["dev-00000-of-00001-0", "dev-00000-of-00001-1"]
    assert [c.text for c in found] == [text_of(number) for number in (*range(12), 100, 101)]
    assert [c.split for c in found] == ["train"] * 12 + ["dev"] * 2
    assert len(read_audio(found[4].audio, 8000)) == round(8000 * seconds_of(4))


def test_files_of_the_same_name_are_told_apart_by_their_folders(tmp_path):
    for folder in ("clean/train", "other/train"):
        write_parts(tmp_path / folder, files=1, groups=1, rows=1)
    found = list(candidates(Config(splits={"train": [f"{tmp_path}/*/train/*.parquet"]})))
    assert [c.id for c in found] == ["clean/train/train-00000-of-00001-0", "other/train/train-00000-of-00001-0"]


def test_columns_that_are_named_are_used(tmp_path):
    write_parts(tmp_path, files=1, groups=1, rows=3)
    config = Config(splits={"train": [f"{tmp_path}/*.parquet"]}, id_column="key", speaker_column="speaker",
                    duration_column="duration", language="en")
    found = list(candidates(config))
    assert [(c.id, c.speaker, c.language) for c in found] == [(f"utterance-{n}", f"voice{n}", "en") for n in range(3)]
    assert [c.seconds for c in found] == [seconds_of(number) for number in range(3)]
    in_milliseconds = config.model_copy(update={"duration_unit": "milliseconds"})
    assert [c.seconds for c in candidates(in_milliseconds)] == [seconds_of(number) / 1000 for number in range(3)]


def test_numbers_are_ids_and_null_is_no_text(tmp_path):
    table = pa.table({"audio": pa.array([b""], pa.binary()), "text": pa.array([None], pa.string()), "id": [7]})
    pq.write_table(table, tmp_path / "x.parquet")
    config = Config(splits={"train": [str(tmp_path / "x.parquet")]}, id_column="id")
    assert [(c.id, c.text) for c in candidates(config)] == [("7", "")]


def test_with_a_duration_column_audio_is_not_fetched_to_prepare(tmp_path):
    write_parts(tmp_path / "web", files=2, rate=48000)
    with serving(tmp_path / "web") as server:
        files = [f"{server.url}/train-0000{part}-of-00002.parquet" for part in range(2)]
        config = Config(splits={"train": files}, duration_column="duration")
        manifest = prepare(config, tmp_path / "manifest", workers=1)
        assert server.served.total() < 0.08 * sum(path.stat().st_size for path in (tmp_path / "web").iterdir())
        assert manifest.seconds.tolist() == [seconds_of(number) for number in range(64)]
        row = manifest.row(40)
        assert len(read_audio(row.audio, 8000)) == pytest.approx(8000 * seconds_of(40), abs=1)
    assert len(set(manifest.groups.tolist())) == 8


def test_without_one_all_audio_is_decoded_and_lengths_are_measured(tmp_path):
    manifest = prepare(sample(tmp_path / "corpus"), tmp_path / "manifest", workers=1)
    assert manifest.seconds.tolist() == pytest.approx([seconds_of(number) for number in (*range(12), 100, 101)])


def test_a_capped_split_looks_at_no_other_row_groups(tmp_path):
    write_parts(tmp_path / "web", files=1, rate=48000)
    with serving(tmp_path / "web") as server:
        config = Config(splits={"dev": [f"{server.url}/train-00000-of-00001.parquet"]}, max_samples={"dev": 10})
        manifest = prepare(config, tmp_path / "manifest", workers=1)
        assert len(manifest) == 10
        groups = {row.audio.group.number for row in map(manifest.row, range(10))}
        sizes = footer(manifest.row(0).audio.group.file)
        wanted = sum(sizes.row_group(number).total_byte_size for number in groups)
        assert len(groups) == 2
        assert server.served.total() <= wanted + 70_000  # and the footer


def test_a_cap_draws_row_groups_by_the_seed_and_keeps_their_order(tmp_path):
    config = sample(tmp_path)
    drawn = [[(piece.name, piece.first, piece.rows) for piece in pieces(config, "train", 5, seed)] for seed in range(9)]
    assert all(found == sorted(found) and sum(rows for *_, rows in found) == 5 for found in drawn)
    assert len({str(found) for found in drawn}) > 3
    assert pieces(config, "train", 5, seed=3) == pieces(config, "train", 5, seed=3)
    assert pieces(config, "train", 1000) == pieces(config, "train")
    assert pieces(config.model_copy(update={"max_samples": {"train": 5}}), "train") == pieces(config, "train", 5)


@pytest.mark.parametrize(("changed", "sentence"), [
    ({"audio_column": "wav"}, r"no column 'wav'; .*Known: audio, duration, key, speaker, text. Correct 'audio_column'"),
    ({"text_column": "sentence"}, r"no column 'sentence'.*Correct 'text_column'"),
    ({"duration_column": "durations"}, r"no column 'durations'; did you mean 'duration'\?"),
    ({"id_column": "id"}, r"no column 'id'"),
    ({"duration_column": "text"}, r"column 'text' holds string; expected numbers"),
    ({"text_column": "audio"}, r"column 'audio' holds struct<.*; expected text"),
    ({"splits": {"train": ["nowhere/*.parquet"]}}, r"'nowhere/\*.parquet': no such file"),
])
def test_what_is_not_there_is_named_with_what_is(tmp_path, changed, sentence):
    config = sample(tmp_path).model_copy(update=changed)
    with pytest.raises(DataError, match=sentence):
        list(candidates(config))


def test_an_unknown_split_is_named_with_the_known_ones(tmp_path):
    with pytest.raises(DataError, match=r"parquet: no split 'test'; .*Known: dev, train"):
        pieces(sample(tmp_path), "test")


def test_a_parquet_file_is_not_read_to_name_its_preparation(tmp_path):
    path, = write_parts(tmp_path, files=1, groups=1, rows=1)
    config = Config(splits={"train": [str(path)]})
    before = source_hash(config)
    path.write_bytes(b"gone")
    assert source_hash(config) == before


LISTED_AND_READ = """
import json
from auricle.data.sources.parquet import Config, candidates
found = list(candidates(Config(splits={"train": ["hf://datasets/lab/corpus/data/train-*.parquet"]})))
print(json.dumps([[c.id, c.text, len(c.audio.read()), str(c.audio)] for c in found]))
"""


def test_a_data_set_of_the_hub_is_read_where_it_is_though_the_hub_answers_503(tmp_path):
    paths = write_parts(tmp_path / "web" / "data", files=2, groups=2, rows=3)
    write_parts(tmp_path / "web" / "data", files=1, groups=1, rows=3, name="test")
    with serving(tmp_path / "web") as server:
        be_the_hub(server)
        server.failing = "datasets/lab/corpus"
        server.faults.append("503")
        environment = {**os.environ, "HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "hub"), "HF_TOKEN": "none",
                       "HF_HUB_DISABLE_TELEMETRY": "1"}
        ran = subprocess.run([sys.executable, "-c", LISTED_AND_READ], env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert not server.faults
    found = json.loads(ran.stdout)
    assert [(identity, text) for identity, text, *_ in found] == [
        (f"train-0000{number // 6}-of-00002-{number % 6}", text_of(number)) for number in range(12)]
    cells = [cell["bytes"] for path in paths for cell in pq.read_table(path)["audio"].to_pylist()]
    assert [size for _, _, size, _ in found] == [len(cell) for cell in cells]
    assert found[-1][3].startswith("hf://datasets/lab/corpus/data/train-00001-of-00002.parquet#bytes=")
