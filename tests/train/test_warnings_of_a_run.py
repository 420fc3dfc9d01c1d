"""What a run tells of its curves while it trains."""

from auricle.train import run as run_module
from auricle.train.onset import Click, Onset
from tests.experiments import run, tiny


def test_an_onset_is_an_event_at_the_line_that_shows_it(tmp_path, monkeypatch):
    seen = []

    def read(self, step, values):
        seen.append((step, values["loss"] if "loss" in values else sum(values["terms"].values())))
        return Click(began=2, loss_before=3.0, loss_after=0.5) if step == 4 else None

    monkeypatch.setattr(Onset, "read", read)
    _, events = run(tiny(tmp_path, max_steps=5))
    found, = [event for event in events if event.kind == "onset"]
    assert (found.step, found.values["began"]) == (4, 2)
    assert seen == [(event.step, event.values["loss"]) for event in events if event.kind == "train"]


def test_overfitting_is_an_alarm_of_its_own_kind(tmp_path, monkeypatch):
    asked = []

    def overfit(events, stage):
        asked.append((stage, sum(event.kind == "eval" for event in events)))
        return "it learns by heart" if len(asked) == 2 else None

    monkeypatch.setattr(run_module, "overfit", overfit)
    _, events = run(tiny(tmp_path, max_steps=6, eval_steps=2))
    assert asked == [("main", 1), ("main", 2), ("main", 3)]
    alarm, = [event for event in events if event.kind == "alarm"]
    assert (alarm.step, alarm.values["message"], alarm.values["about"]) == (4, "it learns by heart", "overfit")
