"""Numbers of events, and how people read them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auricle.dashboard.numbers import count, decimal, duration, number, numbers, parameters, percent


@pytest.mark.parametrize(("value", "expected"), [
    (3, 3.0), (0.5, 0.5), ("inf", math.inf), ("-inf", -math.inf), (True, None), ("12", None), (None, None), ([], None)])
def test_only_numbers_and_the_logs_spelling_of_what_is_not_finite_are_numbers(value, expected):
    assert number(value) == expected


def test_nan_is_a_number_of_the_log():
    assert math.isnan(number("nan"))


def test_nested_values_are_named_by_their_path():
    values = {"loss": 2, "terms": {"ctc": 1.5}, "dataset": "dev", "best": True}
    assert numbers(values, "train") == {"train/loss": 2.0, "train/terms/ctc": 1.5}


@pytest.mark.parametrize(("seconds", "text"), [
    (0.4, "0.4 s"), (42, "42 s"), (59.6, "1 min 0 s"), (135, "2 min 15 s"), (7380, "2 h 3 min"),
    ("nan", "–"), (None, "–")])
def test_durations_are_read_in_two_units(seconds, text):
    assert duration(seconds) == text


def test_rates_sizes_and_counts_carry_their_units():
    assert percent(0.0613) == "6.1 %"
    assert decimal(12345.678, 1, "hours") == "12,345.7 hours"
    assert count(4210) == "4,210"
    assert parameters(1_634_816) == "1.63 M"
    assert (percent(None), decimal("x"), count("inf"), parameters(None)) == ("–",) * 4


@given(st.floats())
def test_any_float_can_be_read(value):
    assert all(isinstance(shown(value), str) for shown in (percent, decimal, count, duration, parameters))
