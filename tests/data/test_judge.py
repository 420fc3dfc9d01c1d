from dataclasses import replace
from itertools import pairwise

import pytest

from auricle.core.errors import DataError
from auricle.data.judge import FILTERS, REASONS, Checks, Facts, Rejection, count_by_reason, judge, refuse_if_too_many

GOOD = Facts(id="a", text="open the gate", seconds=2.0, samples=32000, frames=50)
CHECKS = Checks(min_seconds=0.5, max_seconds=20.0,
                frames_needed=lambda text: len(text) + sum(a == b for a, b in pairwise(text)),
                unknown_characters=lambda text: "".join(sorted(set(text) - set("abcdefghijklmnopqrstuvwxyz "))))
BAD = {
    "missing_file": replace(GOOD, seconds=0.0, samples=None, problem=("missing_file", "no such file")),
    "unreadable": replace(GOOD, seconds=0.0, samples=None, problem=("unreadable", "format not recognised")),
    "zero_length": replace(GOOD, seconds=0.0, samples=0),
    "not_finite": replace(GOOD, finite=False),
    "too_short": replace(GOOD, seconds=0.4),
    "too_long": replace(GOOD, seconds=20.5),
    "empty_transcript": replace(GOOD, text="  "),
    "unknown_characters": replace(GOOD, text="שלום"),
    "ctc_infeasible": replace(GOOD, text="open the gate", seconds=0.5, frames=12),
}


def test_every_reason_is_reached():
    assert set(BAD) == REASONS


@pytest.mark.parametrize("reason", sorted(REASONS))
def test_a_bad_row_is_rejected_for_its_reason(reason):
    found = judge(BAD[reason], CHECKS)
    assert (found.reason, found.id) == (reason, "a")
    assert found.filtered == (reason in FILTERS)


def test_a_good_row_passes():
    assert judge(GOOD, CHECKS) is None
    assert judge(GOOD, Checks()) is None


def test_bounds_belong_to_what_is_allowed():
    assert judge(replace(GOOD, text="go", seconds=0.5, frames=2), CHECKS) is None
    assert judge(replace(GOOD, seconds=20.0), CHECKS) is None


def test_an_empty_transcript_can_be_kept():
    assert judge(BAD["empty_transcript"], replace(CHECKS, empty_transcript="keep")) is None


def test_repeated_labels_need_a_blank_between_them():
    enough = Checks(frames_needed=CHECKS.frames_needed)
    assert judge(replace(GOOD, text="abab", frames=4), enough) is None
    assert judge(replace(GOOD, text="abba", frames=4), enough).reason == "ctc_infeasible"


def test_audio_that_was_not_looked_at_again_is_judged_by_its_seconds():
    assert judge(replace(GOOD, samples=None), CHECKS) is None
    assert judge(replace(GOOD, samples=None, seconds=0.0), CHECKS).reason == "zero_length"


def test_filtered_rows_are_put_up_with_and_rejected_ones_are_not():
    filtered, rejected = Rejection("too_long", "a"), Rejection("unreadable", "b", "cut")
    refuse_if_too_many([filtered] * 9, 10, 0.0, "here")
    refuse_if_too_many([rejected], 100, 0.01, "here")
    with pytest.raises(DataError, match=r"^here: 2 of 100 rows .*'unreadable': 2.*b: unreadable cut"):
        refuse_if_too_many([rejected, rejected], 100, 0.01, "here")


def test_a_set_without_a_usable_row_is_refused():
    with pytest.raises(DataError, match="the data set is empty"):
        refuse_if_too_many([], 0, 1.0, "here")
    with pytest.raises(DataError, match="no row left of 1"):
        refuse_if_too_many([Rejection("too_long", "a")], 1, 1.0, "here")


def test_counts_start_with_the_most_frequent_reason():
    rows = [Rejection("too_long", "a"), Rejection("unreadable", "b"), Rejection("unreadable", "c")]
    assert list(count_by_reason(rows).items()) == [("unreadable", 2), ("too_long", 1)]
