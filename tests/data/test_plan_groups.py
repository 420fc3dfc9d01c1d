"""Rows that are fetched together: whole groups are shuffled, and few are open at a time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auricle.data import plan as plans
from auricle.data.plan import Budget, Mixture, in_length_order, plan

SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=25)
CORPORA = SIZES.map(lambda sizes: np.repeat(np.arange(len(sizes)), sizes))
BUDGETS = st.builds(Budget, seconds=st.one_of(st.none(), st.floats(1.0, 100.0)), utterances=st.integers(1, 12),
                    micro_batches=st.integers(1, 5))


def lengths_of(groups: np.ndarray) -> np.ndarray:
    return 0.5 + np.random.default_rng(len(groups)).random(len(groups)) * 20


def spans(groups: np.ndarray, made) -> dict[int, tuple[int, int]]:
    """Group → its first and last place in the order of training."""
    places = {group: np.flatnonzero(groups[made.rows] == group) for group in set(groups.tolist())}
    return {group: (int(found[0]), int(found[-1])) for group, found in places.items()}


@settings(deadline=None)
@given(CORPORA, BUDGETS, st.integers(0, 3), st.integers(1, 40), st.randoms())
def test_every_row_is_planned_once_within_its_budget_wherever_its_group_lies(groups, budget, epoch, window, random):
    random.shuffle(groups)
    lengths = lengths_of(groups)
    made = plan(lengths, seed=3, epoch=epoch, budget=budget, window=window, groups=groups)
    assert sorted(made.rows.tolist()) == list(range(len(groups)))
    for number in range(made.micro_batches):
        members = lengths[made.rows[made.members(number)]]
        assert 1 <= len(members) <= budget.utterances
        if budget.seconds and len(members) > 1:
            assert members.max() * len(members) <= budget.seconds


@settings(deadline=None)
@given(CORPORA, BUDGETS, st.integers(1, 40))
def test_a_group_is_open_for_one_window_only(groups, budget, window):
    made = plan(lengths_of(groups), seed=3, epoch=0, budget=budget, window=window, groups=groups)
    largest = int(np.bincount(groups).max())
    for first, last in spans(groups, made).values():
        assert last - first < max(window, largest)


def test_a_window_holds_no_more_audio_than_the_cache_can(monkeypatch):
    monkeypatch.setattr(plans, "WINDOW_SECONDS", 100.0)
    groups = np.repeat(np.arange(50), 10)
    made = plan(np.full(500, 2.0), seed=1, epoch=0, budget=Budget(utterances=4), groups=groups)
    assert all(last - first < 50 for first, last in spans(groups, made).values())
    assert any(last - first >= 20 for first, last in spans(groups, made).values())  # and is shuffled within


def test_groups_are_shuffled_anew_in_each_epoch_by_the_seed():
    groups = np.repeat(np.arange(30), 5)
    orders = [plan(np.ones(150), seed=seed, epoch=epoch, budget=Budget(utterances=5), window=5, groups=groups)
              for seed, epoch in ((1, 0), (1, 1), (2, 0), (1, 0))]
    by_group = [groups[made.rows[::5]].tolist() for made in orders]
    assert by_group[0] == by_group[3]
    assert by_group[0] != by_group[1] != by_group[2] != by_group[0]
    assert sorted(by_group[0]) == list(range(30))


def test_padding_stays_small_within_windows():
    generator = np.random.default_rng(0)
    lengths = np.clip(generator.lognormal(np.log(6), 0.6, 30_000), 0.5, 30)
    made = plan(lengths, seed=1, epoch=0, budget=Budget(seconds=120), groups=np.arange(30_000) // 100)
    assert made.padding(lengths) <= 0.05


def test_with_weights_an_epoch_begins_few_groups():
    groups = np.concatenate([np.arange(1000) // 10, 100 + np.arange(1000) // 10])
    mixture = Mixture(sizes=(1000, 1000), weights=(9.0, 1.0), groups=groups)
    rows = [mixture.epoch(3, epoch)[0] for epoch in range(5)]
    small = [row for epoch in rows for row in epoch.tolist() if row >= 1000]
    assert len(small) == 1000
    assert len(set(small)) == 1000  # five epochs of a fifth each are one pass
    begun = [len(set((epoch[epoch >= 1000] // 10).tolist())) for epoch in rows]
    assert max(begun) <= 21
    assert set(rows[0].tolist()) != set(rows[1].tolist())


@settings(deadline=None)
@given(CORPORA, BUDGETS)
def test_evaluation_meets_every_row_once_and_each_group_in_one_window(groups, budget):
    lengths = lengths_of(groups)
    batches = in_length_order(lengths, budget, groups)
    assert sorted(row for batch in batches for row in batch) == list(range(len(groups)))
    assert batches == in_length_order(lengths, budget)  # all of it fits into one window


def test_evaluation_goes_through_long_splits_window_by_window(monkeypatch):
    monkeypatch.setattr(plans, "WINDOW_SECONDS", 30.0)
    groups, lengths = np.asarray([7, 7, 3, 3, 9, 9]), np.asarray([10.0, 2.0, 12.0, 6.0, 9.0, 20.0])
    batches = in_length_order(lengths, Budget(utterances=2), groups)
    assert batches == [[2, 0], [3, 1], [5, 4]]


@pytest.mark.parametrize(("window", "first"), [
    (7, [21, 32, 20, 3, 13, 4, 23, 9]), (20_000, [9, 27, 29, 35, 34, 5, 33, 15])])
def test_rows_without_groups_keep_the_order_that_runs_were_begun_with(window, first):
    lengths = lengths_of(np.arange(40))
    made = plan(lengths, seed=1, epoch=2, budget=Budget(seconds=30.0, micro_batches=2), window=window)
    assert made.rows[:8].tolist() == first
