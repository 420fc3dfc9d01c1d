from dataclasses import dataclass, replace
from itertools import takewhile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auricle.core.config import AugmentConfig
from auricle.core.errors import DataError
from auricle.data.augment import Augment
from auricle.data.draws import id_hashes
from auricle.data.loader import TrainingSet
from auricle.data.plan import Budget, micro_batches
from auricle.data.replan import Order, Replanned
from auricle.store import directory


@dataclass(frozen=True)
class Corpus:
    """Utterances that are names; a length follows from the name."""

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    groups: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.names)

    @property
    def hashes(self) -> np.ndarray:
        return id_hashes(list(self.names))

    @property
    def seconds(self) -> np.ndarray:
        return 0.5 + (self.hashes % 2000).astype(np.float64) / 100


def corpus(*names: str, sizes: tuple[int, ...] | None = None) -> Corpus:
    return Corpus(names=names, sizes=sizes or (len(names),))


def numbered(count: int, **keys) -> Corpus:
    return corpus(*(f"u{number}" for number in range(count)), **keys)


def training_set(rows: Corpus, budget: Budget, replanned: Replanned | None = None, **keys) -> TrainingSet:
    return TrainingSet(rows, collate=list, sample_rate=1, budget=budget, seed=3, window=16, replanned=replanned, **keys)


def trained(data: TrainingSet, epoch: int, steps: int | None = None, skipped=()) -> list[tuple[int, int]]:
    """(row, occurrence) of what the first `steps` steps of an epoch train, all ranks of two together."""
    found = []
    for rank in range(2):
        mine = micro_batches(data.plan, (epoch, 0), rank, 2, skipped)
        for place in takewhile(lambda p: p.epoch == epoch and (steps is None or p.step < steps), mine):
            found += zip(place.rows, place.occurrences, strict=True)
    return found


def names(data: TrainingSet, pairs: list[tuple[int, int]]) -> list[str]:
    return [data.rows.names[row] for row, _ in pairs]


BUDGETS = st.builds(
    Budget, seconds=st.floats(5.0, 100.0), utterances=st.integers(1, 6), micro_batches=st.integers(1, 4)
)
SPEEDS = st.sampled_from([None, Augment(AugmentConfig(speeds=[0.9, 1.0, 1.1]), 7, 16_000)])
COUNTS = st.integers(1, 60)
EPOCHS = st.integers(0, 3)


@settings(deadline=None)
@given(COUNTS, BUDGETS, SPEEDS, EPOCHS, st.data())
def test_what_an_epoch_has_seen_is_what_was_trained(count, budget, augment, epoch, data):
    sizes = (count // 3, count - count // 3) if count >= 3 else (count,)
    weights = data.draw(st.sampled_from([None, (1.0, 3.0)[: len(sizes)]]))
    training = training_set(numbered(count, sizes=sizes), budget, weights=weights, augment=augment)
    step = data.draw(st.integers(0, training.plan(epoch).steps))
    before = trained(training, epoch, step)
    seen = training.order.seen((epoch, step))
    assert len(seen) == len(before)
    if weights is None:
        assert set(seen.tolist()) == set(id_hashes(names(training, before)).tolist())
    rest = training_set(training.rows, budget, Replanned(epoch=epoch, seen=seen), weights=weights, augment=augment)
    assert sorted(before + trained(rest, epoch)) == sorted(trained(training, epoch))


@settings(deadline=None)
@given(COUNTS, BUDGETS, BUDGETS, BUDGETS, SPEEDS, EPOCHS, st.data())
def test_a_budget_changed_twice_in_an_epoch_trains_every_row_once(count, first, second, third, augment, epoch, data):
    rows, replanned, pairs = numbered(count), None, []
    for budget in (first, second):
        training = training_set(rows, budget, replanned, augment=augment)
        step = data.draw(st.integers(0, training.plan(epoch).steps))
        pairs += trained(training, epoch, step)
        replanned = Replanned(epoch=epoch, seen=training.order.seen((epoch, step), replanned=replanned))
    last = training_set(rows, third, replanned, augment=augment)
    assert sorted(pairs + trained(last, epoch)) == [(row, 0) for row in range(count)]
    for other in {epoch + 1, 0} - {epoch}:  # other epochs are as ever
        assert np.array_equal(last.plan(other).rows, training_set(rows, third, augment=augment).plan(other).rows)


@settings(deadline=None)
@given(st.lists(st.integers(0, 40), unique=True, min_size=1), st.lists(st.integers(0, 60), unique=True, min_size=1),
       BUDGETS, BUDGETS, EPOCHS, st.data())
def test_of_changed_data_every_surviving_row_and_every_new_one_is_trained_once(old, new, first, second, epoch, data):
    before = training_set(corpus(*map(str, old)), first)
    step = data.draw(st.integers(0, before.plan(epoch).steps))
    seen = names(before, trained(before, epoch, step))
    after = training_set(corpus(*map(str, new)), second,
                         Replanned(epoch=epoch, seen=before.order.seen((epoch, step))))
    then = names(after, trained(after, epoch))
    assert sorted(then) == sorted(set(map(str, new)) - set(seen))


def test_ids_that_two_data_sets_share_are_two_utterances():
    rows = corpus("a", "b", "c", "a", "b", "c", sizes=(3, 3))
    training = training_set(rows, Budget(utterances=1))
    for step in range(7):
        rest = training_set(rows, Budget(utterances=2), Replanned(epoch=0, seen=training.order.seen((0, step))))
        assert sorted(trained(training, 0, step) + trained(rest, 0)) == [(row, 0) for row in range(6)]


def test_a_turn_of_an_utterance_is_counted_within_its_epoch():
    # Weights make each epoch pass the small data set several times; another size of the other one shifts the passes.
    weights, budget = (1.0, 1.0), Budget(utterances=2)
    before = training_set(numbered(14, sizes=(2, 12)), budget, weights=weights)
    after_rows = corpus("u0", "u1", *(f"v{number}" for number in range(14)), sizes=(2, 14))
    everything = before.order.seen((1, before.plan(1).steps))
    after = training_set(after_rows, budget, Replanned(epoch=1, seen=everything), weights=weights)
    again = names(after, trained(after, 1))
    assert len([name for name in again if name in ("u0", "u1")]) == 1  # the epoch has 7 turns of them before, 8 after
    assert len([name for name in again if name.startswith("v")]) == 8


def test_skipped_steps_are_behind_the_epoch_too():
    training = training_set(numbered(20), Budget(utterances=2))
    seen = training.order.seen((0, 3), skipped=[(0, 7), (1, 5), (0, 99)])
    rest = training_set(training.rows, Budget(utterances=3), Replanned(epoch=0, seen=seen))
    left = names(rest, trained(rest, 0))
    bad = [training.rows.names[row] for row in training.plan(0).rows[14:16]]
    assert len(left) == 12
    assert not set(left) & set(bad)


def test_an_epoch_that_has_seen_all_goes_on_with_the_next_one():
    training = training_set(numbered(6), Budget(utterances=2))
    rest = training_set(training.rows, Budget(utterances=2), Replanned(epoch=0, seen=training.order.seen((0, 3))))
    assert rest.plan(0).steps == 0
    assert next(micro_batches(rest.plan, (0, 0), 0, 1)).epoch == 1
    assert rest.whole_plan(0).steps == 3
    assert rest.padding(0) == training.padding(0)
    assert rest.epochs((0, 0)) == 1.0


def test_epochs_count_on_where_the_rest_was_replanned():
    training = training_set(numbered(40), Budget(utterances=2))
    assert [training.epochs(position) for position in ((0, 0), (2, 5), (3, 0))] == [0.0, 2.25, 3.0]
    rest = training_set(training.rows, Budget(utterances=2), Replanned(epoch=2, seen=training.order.seen((2, 5))))
    assert rest.plan(2).steps == 15
    assert [rest.epochs(position) for position in ((2, 0), (2, 5), (3, 0))] == [2.25, 2.5, 3.0]


@settings(deadline=None)
@given(COUNTS, BUDGETS, SPEEDS, st.sampled_from([None, (2.0,)]))
def test_a_kept_order_plans_as_the_one_that_was_kept(tmp_path_factory, count, budget, augment, weights):
    order = training_set(numbered(count), budget, weights=weights, augment=augment).order
    folder = directory.publish(tmp_path_factory.mktemp("run") / "order" / order.digest, order.save)
    kept = Order.load(folder)
    assert not directory.problems(folder)
    assert kept.digest == order.digest
    assert order.changes(kept) == []
    for epoch in (0, 2):
        mine, its = order.plan(epoch), kept.plan(epoch)
        for part in ("rows", "occurrences", "starts"):
            assert np.array_equal(getattr(mine, part), getattr(its, part))
    assert np.array_equal(order.seen((1, 2)), kept.seen((1, 2)))


def test_what_changed_is_said():
    before = training_set(numbered(10), Budget(utterances=2)).order
    changed = {
        "budget was": replace(before, budget=Budget(utterances=3)),
        "speeds was": replace(before, augment=Augment(AugmentConfig(speeds=[0.9, 1.1]), 1, 16_000)),
        "seed was 3, is 4": replace(before, seed=4),
        "2 utterances are gone and 0 are new": replace(before, corpus=numbered(8)),
        "the utterances are in another order": replace(before, corpus=corpus(*reversed(numbered(10).names))),
    }
    for said, order in changed.items():
        assert any(sentence.startswith(said) for sentence in order.changes(before)), said
        assert order.digest != before.digest
    louder = replace(before, augment=Augment(AugmentConfig(gain_db=(-6.0, 6.0)), 1, 16_000))
    assert louder.changes(before) == []
    assert louder.digest == before.digest


def test_a_folder_that_keeps_no_order_is_said(tmp_path):
    with pytest.raises(DataError, match="not the order of a run"):
        Order.load(tmp_path)
    training_set(numbered(3), Budget(utterances=2)).order.save(tmp_path)
    (tmp_path / "order.json").write_text("{}")
    with pytest.raises(DataError, match="not the order of a run"):
        Order.load(tmp_path)
