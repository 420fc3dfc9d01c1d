import io
import multiprocessing
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from auricle.core.errors import DataError
from auricle.data import remote_files, row_groups
from auricle.data.audio import AudioProblem, read_audio
from auricle.data.disk_cache import cache_folder
from auricle.data.remote_files import RemoteFile, listed
from auricle.data.row_groups import Cell, RowGroup, cell_groups, check_columns, footer, index, is_here, recordings
from tests.parquet import encoded, seconds_of, text_of, write_parts
from tests.ranges import serving


@pytest.fixture(autouse=True)
def quick(tmp_path, monkeypatch):
    monkeypatch.setenv("AURICLE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote_files, "FIRST_WAIT_SECONDS", 0.001)
    monkeypatch.setattr(remote_files, "LONGEST_WAIT_SECONDS", 0.01)
    monkeypatch.setattr(remote_files, "SILENCE_SECONDS", 0.3)
    monkeypatch.setattr(remote_files, "_file_systems", {})
    footer.cache_clear()


@pytest.fixture
def server(tmp_path):
    write_parts(tmp_path / "web", files=1, rate=48000)
    with serving(tmp_path / "web") as server:
        yield server


def only(server) -> RemoteFile:
    return listed(f"{server.url}/train-00000-of-00001.parquet")[0]


def test_the_index_costs_a_small_fraction_of_the_bytes(server):
    file = only(server)
    table = index(file, ["text", "duration"])
    assert table["text"].to_pylist() == [text_of(number) for number in range(32)]
    assert server.served.total() < 0.06 * file.bytes  # most of it the footer, of which 64 kB are asked for
    assert index(file, ["text"], 2)["text"].to_pylist() == [text_of(number) for number in range(16, 24)]


@pytest.mark.parametrize("suffix", ["WAV", "FLAC", "OGG", "MP3"])
def test_recordings_come_as_they_were_encoded_with_their_length(tmp_path, suffix):
    path, = write_parts(tmp_path, files=1, groups=2, rows=5, suffix=suffix)
    found = recordings(RowGroup(listed(str(path))[0], 1), "audio")
    cells = pq.read_table(path)["audio"].to_pylist()
    assert found["audio"].to_pylist() == [cell["bytes"] for cell in cells[5:]]
    assert found["problem"].to_pylist() == [""] * 5
    tolerance = 0.2 if suffix == "MP3" else 1e-9
    assert np.allclose(found["seconds"].to_numpy(), [seconds_of(number) for number in range(5, 10)], atol=tolerance)


def test_only_the_row_group_that_is_wanted_is_fetched(server):
    file = only(server)
    group = footer(file).row_group(1)
    before = server.served.total()
    assert not is_here(RowGroup(file, 1), "audio")
    recordings(RowGroup(file, 1), "audio")
    assert is_here(RowGroup(file, 1), "audio")
    assert server.served.total() - before <= group.total_byte_size
    before = server.served.total()
    recordings(RowGroup(file, 1), "audio")
    assert server.served.total() == before


def _fetch_all(url: str) -> None:
    file = listed(url)[0]
    for number in range(4):
        recordings(RowGroup(file, number), "audio")


def test_processes_of_a_host_download_each_row_group_once(server):
    url, context = f"{server.url}/train-00000-of-00001.parquet", multiprocessing.get_context("fork")
    both = [context.Process(target=_fetch_all, args=(url,)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    asked = [wanted for request, wanted in server.requests if request.startswith("GET")]
    assert len(asked) == len(set(asked)) >= 5  # a footer and four row groups
    assert server.served.total() < 1.1 * only(server).bytes


def test_a_bounded_cache_holds_its_bound_and_brings_back_what_it_dropped(server, monkeypatch):
    monkeypatch.setenv("AURICLE_CACHE_GB", "0.0007")
    file = only(server)
    for number in (0, 1, 2, 3, 0, 1):
        group = RowGroup(file, number)
        assert Cell(group, "audio", 3).read() == encoded(number * 8 + 3, rate=48000)
        held = sum(path.stat().st_size for path in (cache_folder() / "files").rglob("*") if path.is_file())
        assert held <= 700_000
    assert file.bytes > 1_300_000


def test_a_hub_that_answers_503_cuts_and_resets_brings_the_same_bytes(server):
    server.faults.extend(["503", "503", "503"])
    file = only(server)
    server.faults.extend(["cut", "503", "reset", "cut"])
    assert recordings(RowGroup(file, 0), "audio")["audio"].to_pylist() == [encoded(n, rate=48000) for n in range(8)]
    assert not server.faults


def test_a_large_row_group_is_read_in_blocks(server, monkeypatch):
    monkeypatch.setattr(remote_files, "BLOCK", 50_000)
    file = only(server)
    footer(file)
    server.requests.clear()
    recordings(RowGroup(file, 0), "audio")
    ends = [wanted.removeprefix("bytes=").split("-") for _, wanted in server.requests]
    sizes = [int(last) - int(first) + 1 for first, last in ends]
    assert len(sizes) > 6
    assert max(sizes) <= 50_000


def test_a_cell_is_a_reference_and_audio(tmp_path):
    path, = write_parts(tmp_path / "a b#c", files=1, groups=2, rows=3)
    cell = Cell(RowGroup(listed(str(path))[0], 1), "audio", 2)
    assert Cell.parse(str(cell)) == cell
    assert Cell.parse(str(path)) is None
    assert len(read_audio(cell, 16000)) == pytest.approx(16000 * seconds_of(5), abs=1)
    assert len(read_audio(cell, 8000, start=0.1, stop=0.15)) == 400


@pytest.mark.parametrize(("cells", "told"), [
    ([b"no audio"], "unreadable"), ([None], "no bytes"),
    ([encoded(0)[:-100]], "truncated"),
])
def test_a_cell_without_whole_audio_is_a_problem_of_that_row(tmp_path, cells, told):
    pq.write_table(pa.table({"audio": pa.array(cells, pa.binary())}), tmp_path / "x.parquet")
    group = RowGroup(listed(str(tmp_path / "x.parquet"))[0], 0)
    with pytest.raises(AudioProblem, match=told) as raised:
        read_audio(Cell(group, "audio", 0), 16000)
    assert raised.value.detail
    problem, = recordings(group, "audio")["problem"].to_pylist()
    assert bool(problem) == (told != "truncated")  # which only decoding finds


def test_plain_binary_columns_are_audio_too(tmp_path):
    for kind in (pa.binary(), pa.large_binary()):
        pq.write_table(pa.table({"wav": pa.array([encoded(3)], kind)}), tmp_path / "x.parquet")
        assert Cell(RowGroup(listed(str(tmp_path / "x.parquet"))[0], 0), "wav", 0).read() == encoded(3)


def test_a_column_that_is_no_audio_is_named(tmp_path):
    path, = write_parts(tmp_path, files=1, groups=1, rows=3)
    with pytest.raises(DataError, match=r"column 'text' holds string; expected encoded audio.*'audio_column'"):
        recordings(RowGroup(listed(str(path))[0], 0), "text")


def test_a_column_that_is_not_there_is_told_with_those_that_are(tmp_path):
    path, = write_parts(tmp_path, files=1, groups=1, rows=3)
    file = listed(str(path))[0]
    with pytest.raises(DataError, match=r"parquet: no column 'audios'; did you mean 'audio'\? Known: audio, duration, "
                                        r"key, speaker, text. Correct 'audio_column'"):
        check_columns(file, footer(file), {"audio_column": "audios"})


@pytest.mark.parametrize("kept", [0.5, 0.999])
def test_a_file_that_ends_early_is_named_with_its_size(tmp_path, kept):
    path, = write_parts(tmp_path, files=1, groups=2, rows=4)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(DataError, match=rf"train-00000-of-00001.parquet: no whole Parquet file .* all its "
                                        rf"{path.stat().st_size:,} bytes .* ends early.* Copy it again"):
        footer(listed(str(path))[0])


def test_a_file_with_a_hole_is_named(tmp_path):
    path, = write_parts(tmp_path, files=1, groups=2, rows=4)
    whole = path.read_bytes()
    path.write_bytes(whole[:8] + bytes(len(whole) // 2) + whole[8 + len(whole) // 2 :])
    with pytest.raises(DataError, match=r"no whole Parquet file"):
        recordings(RowGroup(listed(str(path))[0], 0), "audio")


def test_a_local_file_that_has_changed_or_gone_is_named(tmp_path):
    path, = write_parts(tmp_path, files=1, groups=2, rows=4)
    file = listed(str(path))[0]
    footer(file)
    path.write_bytes(b"x")
    with pytest.raises(DataError, match=r"had [\d,]+ bytes when it was listed, and now has 1 bytes"):
        recordings(RowGroup(file, 0), "audio")
    path.unlink()
    with pytest.raises(DataError, match=r"now is gone; expected it unchanged"):
        recordings(RowGroup(file, 0), "audio")


def test_a_cached_file_that_a_power_cut_damaged_is_fetched_again(tmp_path):
    path, = write_parts(tmp_path, files=1, groups=1, rows=4)
    group = RowGroup(listed(str(path))[0], 0)
    recordings(group, "audio")
    for cached in (cache_folder() / "files").rglob("*"):
        if cached.is_file():
            os.truncate(cached, 100)
    footer.cache_clear()
    assert recordings(group, "audio").num_rows == 4


def test_row_groups_of_a_manifest_are_told_from_its_references(tmp_path):
    file = RemoteFile("hf://datasets/a/b/x.parquet", 10, "v")
    cells = [Cell(RowGroup(file, number // 2), "audio", number % 2) for number in range(4)]
    references = [[str(cells[0])], ["a.wav"], [str(cells[1])], [], [str(cells[3])], ["b.wav"], [str(cells[2])]]
    media = pa.array([[{"kind": "audio", "reference": one} for one in some] for some in references])
    groups = cell_groups(pa.chunked_array([media[:3], media[3:]]))
    assert groups[0] == groups[2]
    assert groups[4] == groups[6]
    assert len(set(groups.tolist())) == 5
    assert cell_groups(pa.chunked_array([media[1:2]])) is None


def test_audio_in_memory_is_probed_by_its_header():
    stream = io.BytesIO()
    soundfile.write(stream, np.zeros(400), 16000, format="FLAC")
    assert row_groups.probe(stream.getvalue()) == (0.025, "")
