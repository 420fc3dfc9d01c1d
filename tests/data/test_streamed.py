import itertools
import multiprocessing
import pickle
import time
from dataclasses import dataclass, field

import numpy as np
import pytest

from auricle.core.config import AugmentConfig
from auricle.core.errors import DataError, UsageError
from auricle.data import remote_files, streamed
from auricle.data.augment import Augment
from auricle.data.judge import Checks
from auricle.data.loader import batches
from auricle.data.plan import Budget, micro_batches, settled
from auricle.data.prepare import prepare
from auricle.data.row_groups import footer, is_here
from auricle.data.sources.parquet import Config
from auricle.data.streamed import Member, StreamedOrder, changes
from auricle.data.streamed_set import StreamedSet
from auricle.data.streams import ListedRows, StreamedRows
from tests.parquet import seconds_of, write_parts
from tests.ranges import serving
from tests.speech import digits_manifest

BUDGET = Budget(seconds=2.0, micro_batches=2)
GROUPS, ROWS = 12, 96


@pytest.fixture(autouse=True)
def quick(tmp_path, monkeypatch):
    monkeypatch.setenv("AURICLE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote_files, "FIRST_WAIT_SECONDS", 0.001)
    monkeypatch.setattr(remote_files, "_file_systems", {})
    monkeypatch.setattr(streamed, "FEWEST_STEPS", 1)
    footer.cache_clear()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    write_parts(folder)
    return folder


def config_of(folder, **keys) -> Config:
    return Config(splits={"train": [f"{folder}/train-*.parquet"]}, **{"id_column": "key", **keys})


@dataclass(frozen=True)
class Heard:
    """A batch that keeps what it was made of."""

    utterances: list = field(default_factory=list)
    rejections: tuple = ()

    @property
    def ids(self) -> list[str]:
        return [utterance.id for utterance in self.utterances]


def order_of(*configs: Config, most: int | None = None, seed: int = 5, window: int = 24, weights=None,
             **keys) -> StreamedOrder:
    members = [Member(name=f"speech{number}", rows=StreamedRows(config, "train", most, seed), weight=weight)
               for number, (config, weight) in enumerate(zip(configs, weights or [None] * len(configs), strict=True))]
    given = {"budget": BUDGET, "checks": Checks(), "max_rejected": 0.01, **keys}
    return StreamedOrder(members, seed=seed, window=window, **given)


def set_of(*configs: Config, **keys) -> StreamedSet:
    return StreamedSet(order_of(*configs, **keys), collate=Heard, sample_rate=8000)


def trained(data: StreamedSet, start=(0, 0), steps: int = 12, world: int = 1, workers: int = 0) -> list[list[str]]:
    """Ids of each of the next steps, over all ranks."""
    found: list[list[str]] = [[] for _ in range(steps)]
    for rank in range(world):
        places = list(itertools.islice(micro_batches(data.plan, start, rank, world), 3 * steps))
        step, shown = 0, iter(batches(data, places, workers))
        for place in places:
            found[step] += next(shown).ids
            step += place.last
            if step == steps:
                break
        del shown
    return [sorted(step) for step in found]


def ids_of(order: StreamedOrder, window: int) -> list[str]:
    return [row.id for row in order.content(window).rows]


def planned(data: StreamedSet, windows: range) -> list[str]:
    """Ids that some windows train, sorted."""
    return sorted(np.asarray(ids_of(data.order, w))[row] for w in windows for row in data.plan(w).rows.tolist())


def test_an_epoch_meets_every_row_once_window_by_window(corpus):
    data = set_of(config_of(corpus))
    order = data.order
    assert (order.quotas, order.windows_per_epoch, len(data.rows)) == ([24], 4, ROWS)
    for epoch in range(2):
        windows = range(4 * epoch, 4 * epoch + 4)
        assert planned(data, windows) == sorted(f"utterance-{number}" for number in range(ROWS))
        assert {turn for window in windows for turn in data.plan(window).occurrences.tolist()} == {epoch}
        assert [len(order.audio(window)) for window in windows] == [3] * 4
        assert len({group for window in windows for group, _ in order.audio(window)}) == GROUPS
    assert ids_of(order, 0) != ids_of(order, 4)


def test_windows_need_not_end_with_row_groups_nor_with_epochs(corpus):
    data = set_of(config_of(corpus), window=20)
    assert data.order.windows_per_epoch == 4.8
    sequence = [identity for window in range(24) for identity in ids_of(data.order, window)]
    for epoch in range(5):
        part = sequence[ROWS * epoch : ROWS * (epoch + 1)]
        assert sorted(part) == sorted(f"utterance-{number}" for number in range(ROWS))
    assert [len(data.order.audio(window)) for window in range(3)] == [3, 3, 3]  # the third of them only in part
    straddling = data.order.content(4)
    assert set(straddling.occurrences.tolist()) == {0, 1}
    assert data.epochs((24, 0)) == 5.0


def test_data_sets_share_a_window_by_their_weights_or_sizes(corpus, tmp_path):
    small = write_parts(tmp_path / "small", files=1, groups=2, rows=6, first=5000)
    configs = config_of(corpus), Config(splits={"train": [str(path) for path in small]}, id_column="key")
    by_size = order_of(*configs, window=36)
    assert by_size.quotas == [32, 4]
    weighted = order_of(*configs, window=36, weights=(2.0, 1.0))
    assert weighted.quotas == [24, 12]
    content = weighted.content(3)
    assert content.members.tolist() == [0] * 24 + [1] * 12
    assert set(content.occurrences[content.members == 1].tolist()) == {3}  # its third repetition
    assert sorted(row.id for row in content.rows[24:]) == sorted(f"utterance-{number}" for number in range(5000, 5012))
    data = set_of(*configs, window=36, weights=(2.0, 1.0))
    straight = trained(data)
    assert trained(set_of(*configs, window=36, weights=(2.0, 1.0)), world=2, workers=1) == straight
    share = np.mean([int(identity.split("-")[1]) >= 5000 for step in straight for identity in step])
    assert 0.25 < share < 0.42


def test_a_listed_data_set_shares_the_windows_of_a_streamed_one(corpus, tmp_path):
    digits = digits_manifest(tmp_path / "digits").where(split="train")
    listed = prepare(config_of(corpus, duration_column="duration"), tmp_path / "listed", workers=1)
    streamed_rows = StreamedRows(config_of(corpus), "train")

    def set_of_members() -> StreamedSet:
        members = [Member(name="hub", rows=streamed_rows, weight=2.0),
                   Member(name="own", rows=ListedRows(digits), weight=1.0, instruction="describe"),
                   Member(name="index", rows=ListedRows(listed), weight=1.0)]
        order = StreamedOrder(members, budget=BUDGET, seed=5, checks=Checks(), max_rejected=0.01, window=48)
        return StreamedSet(order, collate=Heard, sample_rate=8000)

    data = set_of_members()
    assert data.order.quotas == [24, 12, 12]
    assert set(ids_of(data.order, 2)[24:36]) <= set(digits.ids)
    assert trained(set_of_members(), workers=2) == trained(data)
    place = next(micro_batches(data.plan, (0, 0), 0, 1))
    asked = {u.id: u.instruction for u in data[place].utterances}
    assert {asked[identity] for identity in asked if identity in digits.ids} <= {"describe"}
    cells = [audio for audio in data.order.audio(0) if audio not in streamed_rows.audio(0, 24, 5)]
    assert 0 < len(cells) <= 3  # row groups of the listed one
    assert data.order.digest == set_of_members().order.digest


def test_only_the_row_groups_of_a_window_are_fetched(tmp_path):
    paths = write_parts(tmp_path / "web", rate=48000)
    with serving(tmp_path / "web") as server:
        config = config_of(tmp_path).model_copy(
            update={"splits": {"train": [f"{server.url}/{path.name}" for path in paths]}})
        data = set_of(config)
        data.plan(0)
        rows = data.order.members[0].rows
        groups = [group for group, _ in data.order.audio(0)]
        sizes = [piece.bytes for piece in rows.pieces if piece.group in groups]
        assert sum(sizes) * 0.9 < server.served.total() - 3 * 65536 < sum(sizes) * 1.1  # three footers
        assert len(sizes) == 3


def test_lengths_come_from_the_audio_and_fill_the_budget(corpus):
    data = set_of(config_of(corpus))
    made, content = data.plan(1), data.order.content(1)
    numbers = [int(row.id.split("-")[1]) for row in content.rows]
    assert content.seconds.tolist() == pytest.approx([seconds_of(number) for number in numbers])
    for number in range(made.micro_batches):
        members = content.seconds[made.rows[made.members(number)]]
        assert members.max() * len(members) <= 2.0 or len(members) == 1


def test_a_duration_column_spares_the_audio_until_it_is_trained_on(tmp_path):
    paths = write_parts(tmp_path / "web", rate=48000)
    with serving(tmp_path / "web") as server:
        files = [f"{server.url}/{path.name}" for path in paths]
        config = Config(splits={"train": files}, duration_column="duration", streaming=True)
        data = set_of(config)
        assert data.plan(0).steps > 1
        assert server.served.total() < 0.1 * sum(path.stat().st_size for path in paths)


@pytest.mark.parametrize("keys", [{}, {"duration_column": "duration", "streaming": True}], ids=["headers", "column"])
def test_any_number_of_workers_and_ranks_and_any_start_meets_the_same_steps(corpus, keys):
    config = config_of(corpus, **keys)
    straight = trained(set_of(config))
    assert len({identity for step in straight for identity in step}) > 40
    for world, workers in ((1, 2), (2, 0), (3, 0), (2, 1)):
        assert trained(set_of(config), world=world, workers=workers) == straight
    data, position = set_of(config), (0, 0)
    for step in range(8):
        assert trained(set_of(config), start=position, steps=3) == straight[step : step + 3]
        position = settled(data.plan, (position[0], position[1] + 1))
    assert position[0] > 0  # over the border of a window


def test_audio_is_the_same_bit_for_bit_wherever_it_is_resumed(corpus):
    augment = Augment(AugmentConfig(speeds=[0.9, 1.0, 1.1], gain_db=(-6, 6)), 3, 8000)
    place = list(itertools.islice(micro_batches(set_of(config_of(corpus), augment=augment).plan, (1, 0), 0, 1), 6))[5]
    heard = []
    for workers in (0, 2):
        data = set_of(config_of(corpus), augment=augment)
        batch, = batches(data, [place], workers)
        heard.append({utterance.id: utterance.audio for utterance in batch.utterances})
    assert heard[0].keys() == heard[1].keys()
    assert all(np.array_equal(heard[0][identity], heard[1][identity]) for identity in heard[0])
    again = set_of(config_of(corpus), augment=augment)[place.__class__(
        epoch=5, step=0, rows=place.rows, occurrences=place.occurrences, last=True)]
    assert [u.id for u in again.utterances] != list(heard[0])  # another window, other rows


def _resume(folder, position, queue) -> None:
    footer.cache_clear()
    queue.put(trained(set_of(config_of(folder)), start=position, steps=2, workers=2))


def test_a_new_process_with_an_empty_cache_goes_on_with_the_same_steps(corpus, tmp_path, monkeypatch):
    straight = trained(set_of(config_of(corpus)), steps=8)
    data, position = set_of(config_of(corpus)), (0, 0)
    for _ in range(5):
        position = settled(data.plan, (position[0], position[1] + 1))
    monkeypatch.setenv("AURICLE_CACHE", str(tmp_path / "another"))
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=_resume, args=(corpus, position, queue))
    process.start()
    found = queue.get(timeout=60)
    process.join()
    assert found == straight[5:7]


def test_workers_fetch_the_window_and_the_next_one_and_no_more(corpus):
    data = set_of(config_of(corpus, duration_column="duration", streaming=True))
    wanted = {group for window in (0, 1) for group, _ in data.order.audio(window)}
    groups = [piece.group for piece in data.order.members[0].rows.pieces]
    first = next(micro_batches(data.plan, (0, 0), 0, 1))

    def here() -> set:
        return {group for group in groups if is_here(group, "audio")}

    def places():
        yield first
        while here() != wanted:  # only threads can bring the others
            time.sleep(0.01)
        yield first

    assert here() == set()
    assert len(list(batches(data, places(), 1))) == 2
    assert here() == wanted


def test_speeds_are_drawn_before_batches_are_cut(corpus):
    augment = Augment(AugmentConfig(speeds=[0.5, 2.0]), 3, 8000)
    data = set_of(config_of(corpus), augment=augment)
    made = data.plan(0)
    lengths = data.lengths(0, made.rows, made.occurrences)
    for number in range(made.micro_batches):
        members = lengths[made.members(number)]
        assert members.max() * len(members) <= 2.0 or len(members) == 1
    place = next(micro_batches(data.plan, (0, 0), 0, 1))
    heard = {u.id: u.seconds for u in data[place].utterances}
    ids = np.asarray(ids_of(data.order, 0))[list(place.rows)]
    assert [heard[identity] for identity in ids] == pytest.approx(
        data.lengths(0, np.asarray(place.rows), np.asarray(place.occurrences)).tolist(), abs=0.002)


def test_a_cap_takes_the_first_rows_of_row_groups_drawn_by_the_seed(corpus):
    data = set_of(config_of(corpus), most=20)
    rows = data.order.members[0].rows
    assert (len(data.rows), len(rows.pieces)) == (20, 3)
    met = set(planned(data, range(1)))
    assert len(met) == 20
    assert {identity for step in trained(data, steps=8) for identity in step} == met
    assert StreamedRows(config_of(corpus), "train").capped(20, 5).content == rows.content
    assert StreamedRows(config_of(corpus), "train").capped(20, 6).content != rows.content
    assert len(rows.capped(None, 5)) == len(rows.capped(21, 5)) == 20


def test_a_window_is_large_enough_for_a_few_steps_and_small_enough_for_the_cache(corpus, monkeypatch):
    monkeypatch.setattr(streamed, "FEWEST_STEPS", 8)
    assert order_of(config_of(corpus), window=8, budget=Budget(utterances=3, micro_batches=2)).quotas == [48]
    assert order_of(config_of(corpus), window=8, budget=Budget(utterances=100)).quotas == [ROWS]
    assert order_of(config_of(corpus), window=8, budget=Budget(seconds=1.0)).quotas[0] in range(9, 24)
    monkeypatch.setattr(streamed, "FEWEST_STEPS", 1)
    monkeypatch.setattr(streamed, "WINDOW_BYTES", 70_000)
    assert order_of(config_of(corpus), window=60, budget=Budget(utterances=1)).quotas[0] in range(7, 14)
    monkeypatch.setenv("AURICLE_CACHE_GB", "0.00001")
    with pytest.raises(UsageError, match=r"AURICLE_CACHE_GB is 1e-05; two windows of \d+ rows need 0.000\d+. Raise it"):
        order_of(config_of(corpus), budget=Budget(utterances=1))


def test_rows_outside_the_bounds_are_left_out_and_told_once_a_window(corpus):
    told = []
    order = order_of(config_of(corpus), checks=Checks(min_seconds=0.3, max_seconds=0.6),
                     report=lambda name, rejections, rows: told.append((name, [r.reason for r in rejections], rows)))
    made = order.plan(0)
    seconds = order.content(0).seconds
    assert sorted(made.rows.tolist()) == np.flatnonzero((seconds >= 0.3) & (seconds <= 0.6)).tolist()
    order.plan(0)
    (name, reasons, rows), = told
    assert (name, rows) == ("speech0", 24)
    assert len(reasons) == 24 - len(made.rows)
    assert set(reasons) == {"too_short", "too_long"}


def test_a_window_without_a_usable_row_is_passed_over_but_not_the_first(corpus):
    order = order_of(config_of(corpus), checks=Checks(max_seconds=0.1))
    with pytest.raises(DataError, match=r"speech0: window 1: no row left of 24 \({'too_long': 24}\); .*first: "):
        order.plan(0)
    assert order.plan(1).steps == 0
    data = StreamedSet(order_of(config_of(corpus)), collate=Heard, sample_rate=8000)
    data._plans[1] = order.plan(1)
    assert settled(data.plan, (1, 0)) == (2, 0)
    assert data.epochs((1, 0)) == 0.25


@pytest.mark.parametrize(("damaged", "stops"), [(1, False), (9, True)])
def test_damaged_cells_are_rejected_and_too_many_stop_the_run(tmp_path, damaged, stops):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path, = write_parts(tmp_path, files=1, groups=1, rows=90)
    table = pq.read_table(path)
    cells = [{"bytes": b"", "path": "x"} if number < damaged else cell
             for number, cell in enumerate(table["audio"].to_pylist())]
    pq.write_table(table.set_column(0, "audio", pa.array(cells)), path)
    order = order_of(config_of(tmp_path), window=90)
    if not stops:
        assert len(order.plan(0).rows) == 89
        return
    with pytest.raises(DataError, match=r"9 of 90 rows rejected .*unreadable.* at most 1.0% .*utterance-0: unreadable"):
        order.plan(0)


def test_a_damaged_file_ends_loading_with_its_sentence_and_no_traceback(corpus, tmp_path):
    paths = write_parts(tmp_path, files=1)
    config = Config(splits={"train": [str(paths[0])]}, duration_column="duration", streaming=True)
    data = set_of(config)
    places = list(itertools.islice(micro_batches(data.plan, (0, 0), 0, 1), 4))
    paths[0].write_bytes(b"PAR1")
    for workers in (0, 1):
        with pytest.raises(DataError, match=r"^/.*parquet: had [\d,]+ bytes when it was listed, and now has 4 bytes"):
            list(batches(data, places, workers))


def test_the_digest_tells_orders_apart_and_is_the_same_on_another_machine(corpus, tmp_path):
    base = order_of(config_of(corpus))
    assert base.digest == order_of(config_of(corpus)).digest
    write_parts(tmp_path / "copy")
    assert base.digest == order_of(config_of(tmp_path / "copy")).digest
    write_parts(tmp_path / "longer", files=4)
    others = [order_of(config_of(corpus), seed=6), order_of(config_of(corpus), budget=Budget(utterances=2)),
              order_of(config_of(corpus), window=48), order_of(config_of(corpus), checks=Checks(max_seconds=9.0)),
              order_of(config_of(tmp_path / "longer")), order_of(config_of(corpus), most=50)]
    assert len({base.digest, *(order.digest for order in others)}) == 7
    (tmp_path / "kept").mkdir()
    base.save(tmp_path / "kept")
    assert changes(base, tmp_path / "kept") == []
    assert changes(others[0], tmp_path / "kept") == ["seed was 5, is 6"]
    assert changes(others[3], tmp_path / "kept") == ["max_seconds was inf, is 9.0"]


def test_a_set_can_be_sent_to_another_process(corpus):
    data = set_of(config_of(corpus), report=lambda *_: None,
                  checks=Checks(unknown_characters=lambda _: ""))  # what no process can be sent
    place = next(micro_batches(data.plan, (0, 0), 0, 1))
    assert pickle.loads(pickle.dumps(data))[place].ids == data[place].ids


def test_figures_of_an_epoch_are_estimated_from_the_first_window(corpus):
    data = set_of(config_of(corpus))
    steps = sum(data.plan(window).steps for window in range(4))
    assert data.steps_per_epoch == pytest.approx(steps, rel=0.2)
    hours = sum(seconds_of(number) for number in range(ROWS)) / 3600
    assert data.hours_per_epoch == data.audio_hours == pytest.approx(hours, rel=0.2)
    assert [data.epochs((window, 0)) for window in (0, 2, 4, 9)] == [0.0, 0.5, 1.0, 2.25]
    assert 0.0 < data.epochs((0, 1)) < 0.25


def test_a_sample_of_the_texts_serves_a_tokenizer(corpus):
    assert set("".join(StreamedRows(config_of(corpus), "train", None, 1).texts)) >= set("zeroinetwhfus")
