"""The onset is found on curves that were published, at any cadence, and on nothing that is none."""

import itertools
import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from auricle.core.events import EventLog, current, read
from auricle.train import onset as module
from auricle.train.lines import line
from auricle.train.onset import TERM, Onset


def through(*points):
    """A loss that is straight in ln between the (step, loss) that are known."""
    steps, losses = zip(*points, strict=True)
    return lambda step: math.exp(np.interp(step, steps, np.log(losses)))


CLICKS = {  # name → (loss, step at which it falls, step at which it has fallen)
    "published": (
        through((1, 8.3), (50, 4.2), (100, 3.08), (200, 2.54), (300, 0.50), (400, 0.14), (2000, 0.1)), 200, 400),
    "course": (
        through((1, 8.3), (100, 3.6), (300, 3.0), (1500, 2.8), (1520, 0.9), (1600, 0.7), (4000, 0.4)), 1500, 1520),
    "late": (through((1, 9.0), (200, 3.2), (1000, 2.8), (4500, 2.6), (4800, 0.6), (9000, 0.3)), 4500, 4800),
    "shallow": (through((1, 8.3), (100, 3.6), (300, 3.0), (1500, 2.8), (1600, 1.25), (4000, 1.0)), 1500, 1600),
}
GENTLE = through((1, 3.0), (400, 3.0), (700, 1.5), (1000, 0.75), (2000, 0.7))
RECORDED = (3.0, 2.933, 2.347, 1.62, 1.11, 0.891, 0.73, 0.592, 0.414, 0.323, 0.304, 0.211, 0.162, 0.129, 0.156)
"""The CTC stage of experiments/tiny_journey.yaml, every 50 steps."""
NO_CLICKS = {
    "exponential": lambda step: 8.0 * math.exp(-step / 300),
    "exponential with a floor": lambda step: 8.0 * math.exp(-step / 120) + 0.05,
    "power law": lambda step: 9.0 * step**-0.4,
    "steep power law": lambda step: 300.0 / (step + 20),
    "warm-up": lambda step: 0.5 + 7.8 * math.exp(-(min(step, 500) ** 2 / 1000 + max(0, step - 500)) / 150),
    "plateau": lambda step: 3.0,
    "CTC": through((1, 20.0), (30, 6.0), (80, 3.1), (150, 2.9), (600, 2.85), (700, 2.6), (1000, 1.9), (1500, 1.1),
                   (2500, 0.5), (5000, 0.2)),
    "CTC, recorded": through(*zip(range(0, 750, 50), RECORDED, strict=True)),
    "CTC, logged coarsely": lambda step: {100: 20.0, 200: 8.0}.get(step, 2.9),
}


def watch(loss, cadence, end, noise=0.0, seed=0, start=0):
    """(step of the line that shows the onset, what was found), or None. The noise is a factor, log-normal."""
    draw = np.random.default_rng(seed)
    watched, found = Onset(start), None
    for step in range(cadence, end + 1, cadence):
        click = watched.feed(start + step, loss(step) * math.exp(noise * draw.standard_normal()))
        assert not (click and found), "it fires once"
        found = found or (click and (step, click))
    assert watched.found == (found and found[1])
    return found


@pytest.mark.parametrize("cadence", [1, 10, 25, 50, 100])
@pytest.mark.parametrize("name", CLICKS)
def test_it_is_found_within_a_few_lines_of_the_fall(name, cadence):
    loss, falls, fell = CLICKS[name]
    step, click = watch(loss, cadence, 2 * fell)
    assert falls < step <= fell + 2 * cadence
    assert falls - cadence <= click.began <= falls + max(cadence, (fell - falls) // 10)
    assert click.loss_before == pytest.approx(loss(falls), rel=0.15)
    assert click.loss_after < click.loss_before / 2


def test_four_lines_are_enough_for_the_published_curve():
    onset = Onset()
    found = [onset.feed(step, loss) for step, loss in ((100, 3.08), (200, 2.54), (300, 0.50), (400, 0.14))]
    assert found[:3] == [None] * 3
    assert (found[3].began, found[3].loss_after) == (200, pytest.approx(0.14))


@pytest.mark.parametrize("cadence", [10, 25, 100])
@pytest.mark.parametrize("name", CLICKS)
def test_noise_delays_it_by_a_few_lines(name, cadence):
    """15 % a step, of which a line is the mean."""
    loss, falls, fell = CLICKS[name]
    for seed in range(10):
        step, click = watch(loss, cadence, 2 * fell, noise=0.15 / cadence**0.5, seed=seed)
        assert falls < step <= fell + max(5 * cadence, fell // 3)
        assert click.loss_after < click.loss_before / 2


@pytest.mark.parametrize("name", NO_CLICKS)
def test_nothing_else_is_an_onset(name):
    for cadence, noise in itertools.product((10, 25, 100), (0.0, 0.03, 0.1)):
        seeds = 6 if noise and name != "warm-up" else 1
        found = [seed for seed in range(seeds) if watch(NO_CLICKS[name], cadence, 3000, noise, seed)]
        assert not found, (cadence, noise)


def test_lines_that_are_noise_for_a_third_seldom_look_like_one():
    found = [name for name, loss in NO_CLICKS.items() for seed in range(20) if watch(loss, 25, 1500, 0.3, seed)]
    assert len(found) <= 0.08 * 20 * len(NO_CLICKS)
    assert "plateau" not in found


def test_what_noise_hides_in_single_lines_shows_in_coarser_ones(monkeypatch):
    def found():
        return [seed for seed in range(10) if watch(CLICKS["shallow"][0], 10, 2500, 0.1, seed)]

    assert len(found()) >= 9
    monkeypatch.setattr(module, "SCALES", (1,))
    assert len(found()) <= 3


@given(height=st.floats(0.05, 20), decay=st.floats(20, 3000), cadence=st.integers(1, 100))
def test_no_exponential_decay_is_an_onset(height, decay, cadence):
    assert watch(lambda step: height * math.exp(-step / decay), cadence, 60 * cadence) is None


@given(height=st.floats(0.05, 20), power=st.floats(0.05, 3), offset=st.floats(0, 200), cadence=st.integers(1, 100))
def test_no_power_law_is_an_onset(height, power, offset, cadence):
    assert watch(lambda step: height * (step + offset) ** -power, cadence, 60 * cadence) is None


@given(level=st.floats(0.05, 5), factor=st.floats(1e-3, 1e3), place=st.integers(3, 40),
       back=st.floats(0.75, 1), data=st.data())
@example(level=1.0, factor=4.0, place=3, back=0.9, data=None)
def test_lines_out_of_place_are_no_onset(level, factor, place, back, data):
    """One below the others, or up to five above them, after which the loss is about where it was."""
    width = 1 if factor < 1 else data.draw(st.integers(1, 5), label="lines") if data else 3
    lines = [level] * place + [level * back] * (60 - place)
    lines[place : place + width] = [level * factor] * width
    assert watch(lambda step: lines[step // 25 - 1], 25, 1500) is None


def test_a_stage_counts_its_own_steps():
    """Halving within 300 steps is sudden after 4,000 steps, but not after 400 of the stage's own."""
    assert watch(GENTLE, 25, 2000, start=0) is None
    assert watch(GENTLE, 25, 2000, start=4000) is None
    assert watch(lambda step: GENTLE(max(1, step - 3600)), 25, 5600)


def test_lines_that_tell_nothing_are_passed_over():
    onset = Onset()
    nothing = ((150, math.nan), (160, math.inf), (170, 0.0), (100, 0.1))
    for step, loss in ((100, 3.08), *nothing, (200, 2.54), (200, 0.1), (300, 0.5)):
        assert onset.feed(step, loss) is None
    assert onset.feed(400, 0.14).began == 200


@pytest.fixture
def log(tmp_path):
    log = EventLog(tmp_path / "events.jsonl", run="r")
    yield log
    log.close()


def write(log, steps, *, stage="projector", start=1000, onset=None, audio=100.0, term=TERM,
          loss=CLICKS["published"][0]):
    """Log lines of a stage that began at `start`, as training writes them; returns what its onset is."""
    onset = Onset(start) if onset is None else onset
    for step in steps:
        values = {"terms": {term: loss(step)}, "audio_hours_per_hour": audio}
        event = log.write("train", stage=stage, step=start + step, stage_step=step, **values)
        if click := onset.read(event.step, event.values):
            log.write("onset", stage=stage, step=event.step, **asdict(click))
    return onset


@pytest.mark.parametrize("stop", range(25, 500, 25))
def test_a_resumed_run_finds_the_same_as_one_that_was_not_interrupted(log, stop):
    write(log, range(25, stop + 26, 25))
    log.write("resume", stage="projector", step=1000 + stop)
    write(log, range(stop + 25, 501, 25), onset=Onset.from_events(current(read(log.path)), "projector"))
    (onset,) = [event for event in current(read(log.path)) if event.kind == "onset"]
    step, click = watch(CLICKS["published"][0], 25, 500, start=1000)
    assert (onset.step, onset.values) == (1000 + step, asdict(click))


def test_each_stage_has_its_own_and_text_has_none(log):
    write(log, range(25, 501, 25), stage="text", start=0, audio=0.0)
    write(log, range(25, 501, 25), stage="ctc", start=500, term="ctc")
    events = list(read(log.path))
    assert not [event for event in events if event.kind == "onset"]
    assert Onset.from_events(events, "text").found is None
    assert write(log, range(25, 501, 25)).found
    assert Onset.from_events(read(log.path), "projector").found
    assert Onset.from_events(read(log.path), "not begun").found is None
    write(log, range(25, 1500, 25), stage="later", start=4000, loss=GENTLE)
    assert Onset.from_events(read(log.path), "later").found is None


def test_a_loss_that_the_log_wrote_as_text_is_passed_over(log):
    onset = Onset.from_events([log.write("train", stage="s", step=5, stage_step=5, terms={TERM: "nan"},
                                         audio_hours_per_hour=1.0)], "s")
    assert onset.found is None


def test_it_is_one_line_for_eyes(log):
    write(log, range(25, 501, 25))
    (event,) = [event for event in read(log.path) if event.kind == "onset"]
    assert line(event) == ("Alignment onset (it clicks): the loss of the answer fell from 2.67 to 0.751 "
                           "between steps 1200 and 1275")
