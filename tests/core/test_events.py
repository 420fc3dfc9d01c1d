import json
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auricle.core.events import Event, EventLog, Newest, current, follow, read

VALUES = st.dictionaries(
    st.text(min_size=1).filter(lambda name: name not in ("time", "kind", "run", "rank", "segment", "stage", "step")),
    st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(), st.none()),
)


@given(VALUES, st.integers(0, 10**9))
def test_an_event_survives_its_line(values, step):
    event = Event(kind="train", time=1.5, run="a", stage="main", step=step, values=values)
    line = event.to_json()
    assert "\n" not in line
    assert Event.from_json(line) == event


def test_numbers_that_json_lacks_are_written_as_words():
    line = Event(kind="train", values={"loss": float("nan"), "terms": {"ctc": float("inf")}}).to_json()
    assert json.loads(line)["loss"] == "nan"
    assert json.loads(line)["terms"]["ctc"] == "inf"


def test_a_value_may_not_hide_the_head():
    with pytest.raises(AssertionError, match="step"):
        Event(kind="train", values={"step": 1}).to_json()


def test_a_torn_line_is_passed_over_and_closed_by_the_next_writer(tmp_path):
    path = tmp_path / "events.jsonl"
    log = EventLog(path)
    log.write("train", step=1, loss=2.0)
    log.close()
    with path.open("a") as stream:
        stream.write('{"kind": "train", "st')
    log = EventLog(path)
    log.write("train", step=2, loss=1.0)
    log.close()
    assert [event.step for event in read(path)] == [1, 2]


def test_sinks_get_each_event_and_two_threads_do_not_mix_lines(tmp_path):
    seen = []
    log = EventLog(tmp_path / "events.jsonl", sinks=[seen.append])
    threads = [
        threading.Thread(target=lambda: [log.write("system", text="x" * 500) for _ in range(100)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    assert len(seen) == 400
    assert len(list(read(tmp_path / "events.jsonl"))) == 400


def test_a_resume_supersedes_later_training_rows_and_keeps_time_rows():
    rows = [
        Event(kind="train", step=1),
        Event(kind="train", step=2),
        Event(kind="system", step=0),
        Event(kind="eval", step=2),
        Event(kind="train", step=3),
        Event(kind="resume", step=1),
        Event(kind="train", step=2, values={"again": True}),
    ]
    kept = current(rows)
    assert [(event.kind, event.step) for event in kept] == [("train", 1), ("system", 0), ("resume", 1), ("train", 2)]
    assert kept[-1].values == {"again": True}


def test_following_reads_what_is_written_meanwhile_and_stops_at_the_end(tmp_path):
    path = tmp_path / "events.jsonl"
    stopped = threading.Event()
    seen = []
    reader = threading.Thread(target=lambda: seen.extend(follow(path, stopped.is_set, poll_seconds=0.01)))
    reader.start()
    log = EventLog(path)
    for step in range(20):
        log.write("train", step=step)
    log.write("end")
    log.close()
    stopped.set()
    reader.join(10)
    assert [event.step for event in seen if event.kind == "train"] == list(range(20))
    assert seen[-1].kind == "end"


def test_a_missing_log_has_no_events(tmp_path):
    assert list(read(tmp_path / "none.jsonl")) == []


def append(path, *rows: Event) -> None:
    with path.open("a") as log:
        log.writelines(row.to_json() + "\n" for row in rows)


def test_the_newest_of_each_kind_is_known_and_only_what_was_added_is_read(tmp_path):
    newest = Newest(tmp_path / "events.jsonl")
    assert not newest.update()
    assert newest["train"] is None
    append(newest.path, Event(kind="train", step=1, time=1.0), Event(kind="save", step=1, time=2.0),
           Event(kind="train", step=2, time=3.0))
    assert newest.update()
    assert (newest["train"].step, newest["save"].step, newest.last.step) == (2, 1, 2)
    assert newest.bytes == newest.path.stat().st_size
    newest.path.write_bytes(b"x" * newest.bytes)  # what was read is not looked at again
    append(newest.path, Event(kind="train", step=3, time=4.0))
    assert newest.update()
    assert not newest.update()
    assert newest["train"].step == 3


def test_a_torn_line_is_read_when_it_is_whole(tmp_path):
    newest = Newest(tmp_path / "events.jsonl")
    line = Event(kind="train", step=1).to_json() + "\n"
    newest.path.write_text(line + line[:10])
    newest.update()
    assert newest.bytes == len(line)
    newest.path.write_text(line + "torn and foreign\n" + Event(kind="train", step=2).to_json() + "\n")
    newest.update()
    assert newest["train"].step == 2


def test_a_line_that_stays_torn_hides_nothing(tmp_path):
    newest = Newest(tmp_path / "events.jsonl")
    append(newest.path, Event(kind="train", step=1))
    with newest.path.open("a") as log:
        log.write(Event(kind="train", step=2, values={"loss": 1.0}).to_json()[:-5] + "\n")
    append(newest.path, Event(kind="save", step=2))
    newest.update()
    assert newest["train"].step == 1


def test_a_log_that_was_replaced_is_read_anew(tmp_path):
    newest = Newest(tmp_path / "events.jsonl")
    append(newest.path, Event(kind="train", step=1), Event(kind="save", step=1))
    newest.update()
    newest.path.rename(tmp_path / "old")
    append(newest.path, *(Event(kind="train", step=step) for step in range(50)))
    newest.update()
    assert newest["train"].step == 49
    assert newest["save"] is None


@given(st.lists(st.tuples(st.sampled_from(["train", "eval", "save", "resume", "system"]), st.integers(0, 9))))
def test_the_newest_is_of_what_still_holds(tmp_path_factory, rows):
    """After a resume a kind may be unknown, and is never one that was superseded."""
    events = [Event(kind=kind, step=step, time=float(number)) for number, (kind, step) in enumerate(rows)]
    newest = Newest(tmp_path_factory.mktemp("log") / "events.jsonl")
    for half in (events[: len(events) // 2], events[len(events) // 2 :]):
        append(newest.path, *half)
        newest.update()
    held = {event.kind: event for event in current(events)}
    for kind in ("train", "eval", "save", "resume", "system"):
        assert newest[kind] in (held.get(kind), None)
    if "resume" not in held:
        assert all(newest[kind] == event for kind, event in held.items())
