import itertools
import time
from dataclasses import dataclass, field

import numpy as np
import pytest

from auricle.core.config import AugmentConfig
from auricle.core.errors import DataError
from auricle.data import plan as plans
from auricle.data import read_ahead, remote_files
from auricle.data.augment import Augment
from auricle.data.loader import Rows, TrainingSet, batches
from auricle.data.plan import Budget, micro_batches, settled
from auricle.data.prepare import prepare
from auricle.data.read_ahead import ComingGroups, ReadAhead
from auricle.data.replan import Order
from auricle.data.row_groups import RowGroup, footer, is_here
from auricle.data.sources.parquet import Config
from tests.parquet import seconds_of, write_parts
from tests.speech import digits_manifest

GROUPS, ROWS = 12, 96


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    write_parts(folder / "files")
    config = Config(splits={"train": [f"{folder}/files/*.parquet"]}, duration_column="duration", id_column="key")
    return prepare(config, folder / "manifest", workers=1)


@pytest.fixture(autouse=True)
def quick(tmp_path, monkeypatch):
    monkeypatch.setenv("AURICLE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote_files, "_file_systems", {})
    seconds = sum(seconds_of(number) for number in range(ROWS))
    monkeypatch.setattr(plans, "WINDOW_SECONDS", 3.4 * seconds / GROUPS)  # three row groups
    footer.cache_clear()


@dataclass(frozen=True)
class Heard:
    utterances: list = field(default_factory=list)
    rejections: tuple = ()


def set_of(*manifests, **keys) -> TrainingSet:
    budget = Budget(seconds=2.0, micro_batches=2)
    return TrainingSet(Rows(list(manifests)), collate=Heard, sample_rate=8000, budget=budget, seed=5, **keys)


def here(data: TrainingSet) -> set[RowGroup]:
    groups = {data.rows[number].audio.group for number in range(len(data.rows))}
    return {group for group in groups if is_here(group, "audio")}


def heard(data: TrainingSet, start, steps: int, world: int = 1, workers: int = 0) -> list[dict[str, np.ndarray]]:
    """What is heard in each of the next steps, over all ranks: id → audio."""
    found: list[dict] = [{} for _ in range(steps)]
    for rank in range(world):
        places = itertools.islice(micro_batches(data.plan, start, rank, world), 3 * steps)
        kept = list(places)
        step, loaded = 0, batches(data, kept, workers)
        for place, batch in zip(kept, loaded, strict=True):
            if step < steps:
                found[step] |= {utterance.id: utterance.audio for utterance in batch.utterances}
            step += place.last
    return found


def assert_the_same(found, expected) -> None:
    assert [step.keys() for step in found] == [step.keys() for step in expected]
    for one, other in zip(found, expected, strict=True):
        assert all(np.array_equal(one[identity], other[identity]) for identity in one)


def test_listed_rows_are_heard_alike_by_any_workers_and_ranks_and_after_any_resume(manifest):
    augment = Augment(AugmentConfig(speeds=[0.9, 1.0, 1.1], gain_db=(-6, 6)), 3, 8000)
    straight = heard(set_of(manifest, augment=augment), (0, 0), 12)
    for world, workers in ((1, 2), (2, 0), (2, 1)):
        assert_the_same(heard(set_of(manifest, augment=augment), (0, 0), 12, world, workers), straight)
    data, position = set_of(manifest, augment=augment), (0, 0)
    for step in range(0, 9, 3):
        found = heard(set_of(manifest, augment=augment), position, 3, workers=step % 2)
        assert_the_same(found, straight[step : step + 3])
        for _ in range(3):
            position = settled(data.plan, (position[0], position[1] + 1))


def test_a_window_is_whole_row_groups_and_the_next_one_follows_it(manifest):
    data = set_of(manifest)
    coming = ComingGroups(data.rows, data.order, None)
    windows = data.order.windows(0)
    assert sum(map(len, windows)) == GROUPS
    assert 3 <= len(windows) <= 6
    made = data.plan(0)
    groups = data.rows.groups
    for place in itertools.islice(micro_batches(data.plan, (0, 0), 0, 1), made.micro_batches):
        needed = {data.rows[row].audio.group for row in place.rows}
        found = [group for group, _ in coming(place)]
        which = next(n for n, rows in enumerate(windows) if groups[place.rows[0]] in groups[rows])
        assert needed <= set(found[: len(windows[which])])
        assert len(found) == len(set(found)) == sum(map(len, windows[which : which + 2]))


def test_workers_fetch_the_window_and_the_next_one_and_no_more(manifest):
    data = set_of(manifest)
    windows = data.order.windows(0)
    wanted = {data.rows[int(row)].audio.group for rows in windows[:2] for row in rows}
    first = next(micro_batches(data.plan, (0, 0), 0, 1))

    def places():
        yield first
        while here(data) != wanted:  # only threads can bring the others
            time.sleep(0.01)
        yield first

    assert here(data) == set()
    assert len(list(batches(data, places(), 1))) == 2
    assert here(data) == wanted


def test_without_workers_what_is_needed_is_fetched_and_no_thread_is_left(manifest):
    data = set_of(manifest)
    place = next(micro_batches(data.plan, (0, 0), 0, 1))
    list(batches(data, [place], 0))
    assert here(data) == {data.rows[row].audio.group for row in place.rows}
    assert data._ahead is None


def test_files_on_disk_and_row_groups_mix(manifest, tmp_path):
    digits = digits_manifest(tmp_path / "digits")
    data = set_of(manifest, digits)
    made = data.plan(0)
    assert sorted(made.rows.tolist()) == list(range(len(manifest) + len(digits)))
    straight = heard(data, (0, 0), 6)
    assert_the_same(heard(set_of(manifest, digits), (0, 0), 6, workers=2), straight)
    assert set_of(digits).coming() is None


def test_an_order_of_row_groups_is_kept_and_compared(manifest, tmp_path):
    order = set_of(manifest).order
    (tmp_path / "kept").mkdir()
    order.save(tmp_path / "kept")
    kept = Order.load(tmp_path / "kept")
    assert kept.digest == order.digest
    assert kept.plan(1).rows.tolist() == order.plan(1).rows.tolist()
    assert order.changes(kept) == []
    kept.corpus.groups[:] = np.arange(len(manifest))
    assert order.changes(kept) == ["the utterances lie in other row groups"]


def test_an_error_in_a_thread_is_left_to_the_worker(monkeypatch):
    asked = []

    def fail(group, column):
        asked.append(group)
        raise DataError("gone")

    monkeypatch.setattr(read_ahead, "is_here", lambda group, column: False)
    monkeypatch.setattr(read_ahead, "recordings", fail)
    ahead = ReadAhead(lambda place: [(place, "audio")], 0.0)
    for place in ("a", "b"):
        ahead.at(place)
        while asked.count(place) < read_ahead.THREADS:
            time.sleep(0.01)
