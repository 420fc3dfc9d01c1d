"""The report: one page, complete for any state of a run, with nothing in it that the run did not say."""

import json
import re
from html.parser import HTMLParser

import pytest

from auricle.core.errors import RunFolderError
from auricle.core.events import EventLog, read
from auricle.dashboard.report import commands, write_report
from auricle.dashboard.runs import summarise
from tests.runs import CONFIG, resume_run, write_run

VOID = {"meta", "br", "img", "use", "path", "hr"}


class Page(HTMLParser):
    """Text and tags of a page; fails on tags that are not closed in order."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.text = [], [], []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] not in (["style"], ["script"]):
            self.text.append(data)


def page_of(folder):
    html = write_report(folder).read_text(encoding="utf-8")
    page = Page(html)
    page.html, page.words = html, " ".join(" ".join(page.text).split())
    return page


def test_a_finished_run_tells_its_result_with_interval_normaliser_and_data(tmp_path):
    page = page_of(write_run(tmp_path / "quickstart"))
    assert "22.7 % word error rate" in page.words
    assert "95 % interval 20.7 – 24.7 %, on 6 utterances (22 words) of dev , at step 600." in page.words
    assert "normaliser basic 1" in page.words
    assert "3 / 1 / 1 words substituted / deleted / inserted" in page.words


def test_speed_cost_and_what_was_not_used_are_there(tmp_path):
    words = page_of(write_run(tmp_path / "quickstart")).words
    for fact in ("Steps 600 of 600", "Wall time 10 min 0 s", "Speed 72 hours of audio per hour", "Cost $0.60",
                 "Padding 1.80 % of frames", "Waiting for data 0.6 % of the time", "Evaluation 6.0 % of wall time",
                 "encoder 1.6 M main", "too long filtered 8", "unreadable rejected 3", "CPU 183.1 % at most 186.0 %",
                 "torch 2.13.0", "git 1f2e3d4", "kind: conformer"):
        assert fact in words


def test_worst_and_best_are_marked_and_can_be_heard(tmp_path):
    page = page_of(write_run(tmp_path / "quickstart", audio=True))
    assert "light <del>the</del> second torch" in page.html
    assert "light <ins>a</ins> second torch <ins>now</ins>" in page.html
    players = [attributes["src"] for tag, attributes in page.tags if tag == "audio"]
    assert len(players) == 6
    assert all(address.startswith("data:audio/flac;base64,") for address in players)


def test_errors_are_summed_by_source_and_by_duration(tmp_path):
    words = page_of(write_run(tmp_path / "quickstart")).words
    assert "rooms 14.3 % 14 studio 37.5 % 8" in words
    assert "0-2 s 0.0 % 3 2-5 s 50.0 % 4 5-10 s 28.6 % 7 10-20 s 12.5 % 8" in words


def test_the_page_needs_nothing_from_outside_and_runs_no_script(tmp_path):
    page = page_of(write_run(tmp_path / "quickstart", audio=True))
    assert not [tag for tag, _ in page.tags if tag in ("script", "link", "iframe", "img")]
    addresses = [value for _, attributes in page.tags for name, value in attributes.items() if name in ("src", "href")]
    assert not [address for address in addresses if not address.startswith(("data:audio/", "#"))]
    assert not re.findall(r"url\((?!#)|@import", page.html)


def test_text_of_users_stays_text(tmp_path):
    folder = write_run(tmp_path / "<b>run", steps=200)
    log = EventLog(folder / "events.jsonl", run="<b>run")
    log.write("alarm", message="<script>alert(1)</script>")
    log.close()
    page = page_of(folder)
    assert "<script>" not in page.html
    assert "<b>run" not in page.html
    assert "<script>alert(1)</script>" in page.words
    assert "drop the <silver> key & run" in page.words


def test_an_alignment_onset_is_a_fact_and_a_mark_in_the_curves(tmp_path):
    folder = write_run(tmp_path / "run")
    assert "lignment onset" not in page_of(folder).words
    log = EventLog(folder / "events.jsonl", run="run")
    log.write("onset", stage="main", step=325, began=300, loss_before=2.54, loss_after=0.5)
    log.close()
    words = page_of(folder).words
    assert "Alignment onset step 300 loss 2.54 → 0.50" in words
    assert words.count("alignment onset, step 300") == 2


def test_a_run_without_an_evaluation_says_so(tmp_path):
    page = page_of(write_run(tmp_path / "run", steps=50, end=None, evaluate=False))
    assert "No evaluation yet. Step 50, training loss" in page.words
    assert "running" in page.words
    assert "What it heard" not in page.words


def test_a_run_that_has_barely_begun_has_a_page(tmp_path):
    log = EventLog(tmp_path / "events.jsonl", run="new")
    log.write("run", device="cpu", world=2)
    log.close()
    page = page_of(tmp_path)
    assert "No evaluation yet. Step 0." in page.words
    assert "cpu, 2 processes" in page.words


def test_a_resumed_run_with_a_broken_last_line_shows_what_holds(tmp_path):
    folder = write_run(tmp_path / "run", steps=450, end="interrupted")
    resume_run(folder, at=200, steps=60)
    with (folder / "events.jsonl").open("ab") as log:
        log.write(b'{"time": 1790.1, "kind": "train", "st')
    page = page_of(folder)
    assert "Steps 250 of 600" in page.words
    assert "resumed from step 200" in page.words
    assert "62.7 % word error rate" in page.words
    assert "a fixed random subset, at step 200" in page.words


def test_a_run_that_began_anew_without_a_checkpoint_says_so(tmp_path):
    folder = write_run(tmp_path / "run", steps=50, end=None)
    log = EventLog(folder / "events.jsonl", run="run", segment=1)
    log.write("train", step=25, loss=1.0)
    log.close()
    assert "started 2 times" in page_of(folder).words


@pytest.mark.parametrize(("end", "note"), [("failed", "It ended early. disk full"), (None, "It ended without a word")])
def test_a_run_that_broke_says_how(tmp_path, end, note):
    folder = write_run(tmp_path / "run", steps=50, end=None, started=1_700_000_000.0)
    if end:
        log = EventLog(folder / "events.jsonl", run="run")
        log.write("end", reason=end, message="disk full", seconds=50.0)
        log.close()
    assert note in page_of(folder).words


def test_evaluations_made_later_are_listed_beside_the_runs_own(tmp_path):
    folder = write_run(tmp_path / "run")
    log = EventLog(folder / "eval" / "evaluations.jsonl", run="run")
    log.write("eval", dataset="dev-test", decoder="beam", normalizer="basic", normalizer_version="1", wer=0.0312)
    log.close()
    words = page_of(folder).words
    assert "22.7 % word error rate" in words
    assert "dev-test 3.1 %" in words


def test_every_decoder_of_the_last_evaluation_stands_beside_the_others_with_what_its_rate_hides(tmp_path):
    folder = write_run(tmp_path / "run")
    log = EventLog(folder / "events.jsonl", run="run")
    values = {"dataset": "dev", "normalizer": "basic", "complete": True, "empty_rate": 0.015, "repetition_rate": 0.25}
    log.write("eval", step=600, decoder="greedy", wer=0.2, cut_rate=0.034, **values)
    log.write("eval", step=600, decoder="beam", wer=0.18, beside="greedy", **values)
    log.close()
    words = page_of(folder).words
    assert "20.0 % word error rate" in words
    assert "1.5 % of utterances empty 25.0 % stuck in a loop 3.4 % cut off" in words
    assert "dev 18.0 % – – – beam 1.5 % 25.0 % – basic" in words


def test_a_complete_evaluation_outranks_a_later_one_of_a_subset(tmp_path):
    folder = write_run(tmp_path / "run")
    log = EventLog(folder / "events.jsonl", run="run")
    log.write("eval", step=700, dataset="dev", decoder="greedy", normalizer="basic", wer=0.01, complete=False)
    log.close()
    assert "22.7 % word error rate" in page_of(folder).words


def test_each_start_judges_the_rows_anew_and_is_counted_once(tmp_path):
    folder = write_run(tmp_path / "run")
    log = EventLog(folder / "events.jsonl", run="run", segment=1)
    log.write("rejected", dataset="speech", rows=4221, count_by_reason={"too_long": 8})
    log.close()
    words = page_of(folder).words
    assert "too long filtered 8" in words
    assert "unreadable" not in words


def test_missing_files_beside_the_events_leave_gaps_and_no_error(tmp_path):
    folder = write_run(tmp_path / "run")
    (folder / "run.json").unlink()
    (folder / "config.yaml").unlink()
    page = page_of(folder)
    assert "No player: the audio file is not there any more." in page.words
    assert '"kind": "conformer"' in page.words  # from the run's first event
    (folder / "eval" / "step-000000600-dev.jsonl").unlink()
    assert "What it heard" not in page_of(folder).words


def test_the_commands_go_on_from_where_the_run_stands(tmp_path):
    folder = write_run(tmp_path / "my run", steps=200, end="interrupted")
    about = json.loads((folder / "run.json").read_text())

    def lines(run, about):
        summary = summarise(run, list(read(run / "events.jsonl")), 0.0)
        return [command.line for command in commands(run, summary, about, CONFIG, saved=True)]

    assert f"auricle transcribe '{folder}' RECORDING.wav" in lines(folder, about)
    assert "auricle train +experiments=quickstart" in lines(folder, about)
    done = write_run(tmp_path / "done")
    typed = {"command": "auricle train +experiments=quickstart training.max_steps=600 data.x='a b'"}
    assert "auricle train +experiments=quickstart 'data.x=a b' training.max_steps=1200" in lines(done, typed)


def test_a_run_of_several_stages_is_not_told_to_double_one(tmp_path):
    folder = write_run(tmp_path / "run")
    summary = summarise(folder, list(read(folder / "events.jsonl")), 0.0)
    staged = {**CONFIG, "stages": {"warm": {}, "main": {}}}
    found = commands(folder, summary, {"command": "auricle train x"}, staged, saved=True)
    assert not any("twice" in command.purpose for command in found)


def test_no_model_no_command_that_needs_one(tmp_path):
    words = page_of(write_run(tmp_path / "run", steps=50, end="interrupted", evaluate=False)).words
    assert "auricle transcribe" not in words
    assert "Go on where it stopped auricle train +experiments=quickstart" in words


def test_a_folder_without_a_run_and_a_place_that_cannot_be_written_are_one_sentence(tmp_path):
    with pytest.raises(RunFolderError, match=r"no events\.jsonl"):
        write_report(tmp_path)
    folder = write_run(tmp_path / "run", steps=25)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot be written"):
        write_report(folder, tmp_path / "file" / "report.html")
    assert not (folder / "report.html").exists()


def test_the_page_can_be_written_elsewhere(tmp_path):
    folder = write_run(tmp_path / "run", steps=25)
    assert write_report(folder, tmp_path / "site" / "index.html").read_text().startswith("<!DOCTYPE html>")
