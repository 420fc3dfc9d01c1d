"""Overfitting is warned of once, on the evidence of the same utterances, and not for a rise that is noise."""

import pytest

from auricle.core.events import EventLog, current, read
from auricle.train.overfit import ABOUT, overfit

RISING = (0.70, 0.73, 0.74, 0.75, 0.76)
FALLING = (0.50, 0.40, 0.30, 0.20, 0.14)


@pytest.fixture
def log(tmp_path):
    log = EventLog(tmp_path / "events.jsonl", run="r")
    yield log
    log.close()


def write(log, evaluated=RISING, trained=FALLING, *, dataset="dev", stage="main", utterances=100, first=100):
    """Evaluations each 100 steps, after ten log lines of the same loss."""
    for number, (evaluation, training) in enumerate(zip(evaluated, trained, strict=True)):
        for step in range(first + 100 * (number - 1) + 10, first + 100 * number + 1, 10):
            log.write("train", stage=stage, step=step, loss=training)
        log.write("eval", stage=stage, step=first + 100 * number, loss=evaluation, dataset=dataset,
                  utterances=utterances)


def found(log, stage="main"):
    return overfit(current(read(log.path)), stage)


def test_three_rises_while_training_falls_are_told_with_their_numbers(log):
    write(log, RISING[:3], FALLING[:3])
    assert found(log) is None, "two rises"
    write(log, RISING[3:], FALLING[3:], first=400)
    warning = found(log)
    assert (warning.dataset, warning.since) == ("dev", 200)
    assert (warning.evaluation, warning.training) == ((0.73, 0.76), (0.3, 0.14))
    assert str(warning).startswith("the loss on dev rises (0.73 at step 200, 0.76 now, 3 evaluations in a row) while")


@pytest.mark.parametrize(("evaluated", "trained"), [
    ((0.76, 0.75, 0.74, 0.73), FALLING[:4]),
    ((0.70, 0.75, 0.74, 0.76), FALLING[:4]),
    (RISING[:4], (0.5, 0.5, 0.5, 0.5)),
    (RISING[:4], (0.2, 0.3, 0.4, 0.5)),
    ((0.7000, 0.7001, 0.7002, 0.7003), FALLING[:4]),
    (RISING[:4], (0.5, 0.4999, 0.4998, 0.4997)),
    ((0.70, 0.73, 0.74, float("nan")), FALLING[:4]),
    (RISING[:4], (float("nan"),) * 4),
])
def test_what_is_no_overfitting(log, evaluated, trained):
    write(log, evaluated, trained)
    assert found(log) is None


def test_it_is_told_once_a_stage_also_after_a_resume(log):
    write(log)
    log.write("alarm", stage="main", step=500, message="something else")
    assert found(log)
    log.write("alarm", stage="main", step=500, message=str(found(log)), about=ABOUT)
    assert found(log) is None
    log.write("resume", stage="main", step=400)
    write(log, (0.77, 0.78), (0.1, 0.1), first=500)
    assert found(log) is None
    write(log, stage="next", first=1000)
    assert found(log, "next")


def test_only_evaluations_of_the_same_utterances_are_compared(log):
    write(log, RISING[:3], FALLING[:3])
    write(log, RISING[3:4], FALLING[3:4], first=400, utterances=900)
    assert found(log) is None
    write(log, RISING[3:4], FALLING[3:4], first=500, dataset="other")
    assert found(log) is None
    write(log, RISING[3:4], FALLING[3:4], first=600)
    assert found(log)


def test_other_decoders_of_an_evaluation_hide_no_rise(log):
    """They share its loss."""
    write(log)
    last = 100 * len(RISING)
    log.write("eval", stage="main", step=last, loss=RISING[-1], dataset="dev", utterances=100, beside="joint")
    assert found(log)


def test_what_a_resume_took_back_counts_for_nothing(log):
    write(log)
    log.write("resume", stage="main", step=300)
    assert found(log) is None


def test_without_log_lines_between_nothing_is_known_of_the_training(log):
    for number, loss in enumerate(RISING):
        log.write("eval", stage="main", step=100 * number, loss=loss, dataset="dev", utterances=1)
    assert found(log) is None
