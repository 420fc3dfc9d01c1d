from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auricle.core.errors import DataError
from auricle.data.plan import (
    Budget,
    MicroBatch,
    Mixture,
    Plan,
    in_length_order,
    micro_batches,
    next_position,
    plan,
    settled,
    split_micro_batch,
)

LENGTHS = st.lists(st.floats(0.05, 40.0), min_size=1, max_size=200).map(np.asarray)
BUDGETS = st.builds(Budget, seconds=st.one_of(st.none(), st.floats(1.0, 100.0)), utterances=st.integers(1, 12),
                    micro_batches=st.integers(1, 5))


@given(LENGTHS, BUDGETS, st.integers(0, 3), st.integers(2, 64))
def test_every_utterance_is_planned_once_and_no_micro_batch_exceeds_its_budget(lengths, budget, epoch, window):
    made = plan(lengths, seed=3, epoch=epoch, budget=budget, window=window)
    assert sorted(made.rows.tolist()) == list(range(len(lengths)))
    for number in range(made.micro_batches):
        members = lengths[made.rows[made.members(number)]]
        assert 1 <= len(members) <= budget.utterances
        if budget.seconds and len(members) > 1:
            assert members.max() * len(members) <= budget.seconds


@given(LENGTHS, BUDGETS)
def test_a_plan_is_a_function_of_seed_and_epoch(lengths, budget):
    first = plan(lengths, seed=1, epoch=0, budget=budget)
    again = plan(lengths, seed=1, epoch=0, budget=budget)
    assert (first.rows == again.rows).all()
    assert (first.starts == again.starts).all()


def test_epochs_and_seeds_differ():
    lengths = np.linspace(1, 10, 300)
    budget = Budget(seconds=40)
    orders = [plan(lengths, seed=s, epoch=e, budget=budget).rows.tolist() for s, e in ((1, 0), (1, 1), (2, 0))]
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_log_normal_durations_are_padded_by_at_most_three_percent():
    lengths = np.clip(np.random.default_rng(0).lognormal(np.log(6), 0.6, 30_000), 0.5, 30)
    made = plan(lengths, seed=1, epoch=0, budget=Budget(seconds=120))
    assert made.padding(lengths) <= 0.03
    order = np.random.default_rng(1).permutation(len(lengths)).reshape(-1, 20)  # what batches of 20 at random would pad
    longest = lengths[order].max(1)
    assert 1 - lengths.sum() / (longest * 20).sum() > 0.3


@settings(deadline=None)
@given(LENGTHS, BUDGETS, st.integers(1, 4), st.integers(0, 10))
def test_ranks_share_each_step_and_march_together(lengths, budget, world, skip):
    made = plan(lengths, seed=5, epoch=0, budget=budget)
    start = (0, min(skip, made.steps - 1))
    left = made.steps - start[1]
    by_rank = []
    for rank in range(world):
        places, steps = micro_batches(lambda epoch: made, start, rank, world), []
        while len(steps) < left:
            steps.append([])
            for place in places:
                steps[-1].append(place)
                if place.last:
                    break
        by_rank.append(steps)
    for step in range(left):
        shares = [steps[step] for steps in by_rank]
        assert len({len(share) for share in shares}) == 1  # the same number of micro-batches on each rank
        rows = sorted(row for share in shares for place in share for row in place.rows)
        first = (start[1] + step) * budget.micro_batches
        expected = [row for m in range(first, min(first + budget.micro_batches, made.micro_batches))
                    for row in made.rows[made.members(m)].tolist()]
        assert rows == sorted(expected)
        assert all(place.step == start[1] + step for share in shares for place in share)


def test_the_next_position_crosses_the_epoch():
    assert next_position(3, (0, 0)) == (0, 1)
    assert next_position(3, (0, 2)) == (1, 0)
    assert next_position(1, (4, 0)) == (5, 0)


def epochs_of(steps: list[int]):
    """Epochs with these numbers of steps, the last one again and again; each row is (epoch, step) as a number."""

    def plan_of(epoch: int) -> Plan:
        count = steps[min(epoch, len(steps) - 1)]
        return Plan(rows=1000 * epoch + np.arange(count), occurrences=np.zeros(count, np.int32),
                    starts=np.arange(count + 1), micro_batches_per_step=1)

    return plan_of


EPOCHS = st.lists(st.integers(0, 4), max_size=4).map(lambda steps: [*steps, 2])
PLACES = st.sets(st.tuples(st.integers(0, 5), st.integers(0, 4)), max_size=12)


@given(EPOCHS, PLACES, st.tuples(st.integers(0, 3), st.integers(0, 5)))
def test_skipped_steps_are_passed_over_and_the_position_always_names_the_step_that_comes_next(steps, skipped, start):
    plan_of = epochs_of(steps)
    wanted = [(epoch, step) for epoch in range(start[0], 12) for step in range(plan_of(epoch).steps)
              if (epoch, step) >= start and (epoch, step) not in skipped][:8]
    position = settled(plan_of, start, skipped)
    for place, expected in zip(islice(micro_batches(plan_of, start, 0, 1, skipped), 8), wanted, strict=True):
        assert (place.epoch, place.step) == position == expected
        assert place.rows == (1000 * expected[0] + expected[1],)
        after = next_position(plan_of(position[0]).steps, position, skipped)
        position = settled(plan_of, after, skipped)
        assert position == settled(plan_of, (expected[0], expected[1] + 1), skipped)


@given(st.integers(1, 6), PLACES, st.integers(0, 5))
def test_the_next_position_is_never_a_skipped_one_of_its_epoch(steps, skipped, step):
    after = next_position(steps, (0, step), skipped)
    assert after == (1, 0) or (after[0] == 0 and step < after[1] < steps and after not in skipped)


@given(st.integers(0, 30), st.integers(1, 9), st.booleans())
def test_a_micro_batch_is_split_in_order_and_evenly_into_exactly_as_many(rows, pieces, last):
    whole = MicroBatch(epoch=1, step=2, rows=tuple(range(rows)), occurrences=tuple(range(rows, 0, -1)), last=last)
    parts = split_micro_batch(whole, pieces)
    assert len(parts) == pieces
    assert sum((part.rows for part in parts), ()) == whole.rows
    assert sum((part.occurrences for part in parts), ()) == whole.occurrences
    sizes = [len(part.rows) for part in parts]
    assert sizes == sorted(sizes, reverse=True)
    assert max(sizes) - min(sizes) <= 1
    assert [part.last for part in parts] == [False] * (pieces - 1) + [last]


@settings(deadline=None)
@given(LENGTHS, BUDGETS, st.integers(1, 3), st.integers(1, 4), PLACES)
def test_split_and_skipped_steps_keep_a_steps_rows_and_the_march_of_the_ranks(lengths, budget, world, split, skip):
    made, skip = plan(lengths, seed=5, epoch=0, budget=budget), {(0, step) for _, step in skip}
    left = [step for step in range(made.steps) if (0, step) not in skip][:3]

    def steps_of(split: int) -> list[list[list[MicroBatch]]]:
        """By step, by rank."""
        shares = [[[] for _ in range(world)] for _ in left]
        for rank in range(world):
            places = micro_batches(lambda _: made, (0, 0), rank, world, skip, split)
            for share in shares:
                while not share[rank] or not share[rank][-1].last:
                    share[rank].append(next(places))
        return shares

    for step, whole, pieces in zip(left, steps_of(1), steps_of(split), strict=True):
        assert {len(share) for share in pieces} == {split * len(whole[0])}
        for mine, split_mine in zip(whole, pieces, strict=True):
            assert sum((p.rows for p in split_mine), ()) == sum((p.rows for p in mine), ())
            assert {p.step for p in split_mine} == {step}


@given(st.lists(st.integers(1, 40), min_size=1, max_size=4), st.data())
def test_a_weighted_mixture_keeps_its_shares_and_repeats_no_row_before_all_had_their_turn(sizes, data):
    weights = tuple(data.draw(st.lists(st.floats(0.1, 5.0), min_size=len(sizes), max_size=len(sizes))))
    mixture = Mixture(sizes=tuple(sizes), weights=weights)
    offsets = np.cumsum([0, *sizes])
    seen = np.zeros(sum(sizes), int)
    for epoch in range(4):
        rows, occurrences = mixture.epoch(1, epoch)
        for number, weight in enumerate(weights):
            mine = (rows >= offsets[number]) & (rows < offsets[number + 1])
            assert mine.sum() == max(1, round(sum(sizes) * weight / sum(weights)))
        for row, occurrence in zip(rows, occurrences, strict=True):
            assert occurrence == seen[row]
            seen[row] += 1
    for number in range(len(sizes)):
        turns = seen[offsets[number] : offsets[number + 1]]
        assert turns.max() - turns.min() <= 1


def test_without_weights_each_row_comes_once_an_epoch():
    rows, occurrences = Mixture(sizes=(3, 4)).epoch(1, 5)
    assert rows.tolist() == list(range(7))
    assert not occurrences.any()


@given(LENGTHS, BUDGETS)
def test_evaluation_takes_every_row_once_longest_first(lengths, budget):
    batches = in_length_order(lengths, budget)
    flat = [row for batch in batches for row in batch]
    assert sorted(flat) == list(range(len(lengths)))
    assert (np.diff(lengths[flat]) <= 0).all()


def test_nothing_to_plan_is_an_error():
    with pytest.raises(DataError, match="no utterance"):
        plan(np.zeros(0), seed=1, epoch=0, budget=Budget(seconds=1))
