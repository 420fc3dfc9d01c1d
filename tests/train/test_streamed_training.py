"""Experiments on Parquet data that is not listed first: what they prepare, report and refuse."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from auricle.core.errors import DataError, RunFolderError
from auricle.data import outages
from auricle.data.manifest import Manifest
from auricle.data.prepare import prepare
from auricle.data.row_groups import footer
from auricle.data.sources.parquet import Config
from auricle.train import start
from auricle.train.claim import Options
from auricle.train.datasets import capped
from tests.experiments import run, tiny
from tests.parquet import write_parts
from tests.speech import digits_manifest


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_parts(folder)
    write_parts(folder, files=1, name="dev", first=1000)
    return folder


@pytest.fixture(autouse=True)
def quick(tmp_path, monkeypatch):
    monkeypatch.setenv("AURICLE_CACHE", str(tmp_path / "cache"))
    footer.cache_clear()


def dataset(corpus: Path, **source: Any) -> dict[str, Any]:
    splits = {"train": [f"{corpus}/train-*.parquet"], "dev": [f"{corpus}/dev-*.parquet"]}
    return {"source": {"kind": "parquet", "splits": splits, "id_column": "key", **source}}


def experiment(home: Path, corpus: Path, *, data: dict | None = None, source: dict | None = None, **keys: Any):
    values = {"datasets": {"speech": dataset(corpus, **(source or {}))}, "prepared_dir": str(home / "data"),
              "max_eval_samples": 5, "bucket_window": 24, **(data or {})}
    return tiny(home, manifest=corpus, data=values, **{"batch_seconds": 1.5, "max_steps": 3, **keys})


def test_it_trains_with_nothing_but_its_evaluation_prepared(tmp_path, corpus):
    data = {"max_seconds": 0.6}
    outcome, events = run(experiment(tmp_path, corpus, data=data, num_train_epochs=2.0, max_steps=None))
    assert outcome.reason == "finished"
    prepared, = (tmp_path / "data").iterdir()
    assert prepared.name.startswith("speech-dev-")
    assert Manifest.open(prepared).summary["splits"].keys() == {"dev"}
    assert len(Manifest.open(prepared)) == 5
    derived = next(event.values for event in events if event.kind == "derived")
    assert derived["estimated_from"] == "the first of 2 windows"
    assert derived["utterances"] == 96
    assert 2.0 <= [e.values["epoch"] for e in events if e.kind == "train"][-1] < 2.3
    told = [event.values for event in events if event.kind == "rejected" and "window" in event.values["dataset"]]
    assert len(told) >= 4  # windows, of which two or less make an epoch
    assert {reason for values in told for reason in values["count_by_reason"]} == {"too_long"}
    ids = {identity for values in told[:2] for identity, *_ in values["listed"]}
    assert len(ids) >= 9  # each eleventh is 0.65 s, another 0.7 s


def test_max_train_samples_draws_row_groups(tmp_path, corpus):
    _, events = run(experiment(tmp_path, corpus, data={"max_train_samples": 20}))
    assert next(event.values["utterances"] for event in events if event.kind == "derived") == 20


def test_streamed_data_sets_mix_by_weight_with_each_other_and_with_listed_ones(tmp_path, corpus):
    digits = {"manifest": str(digits_manifest(tmp_path / "digits").folder), "eval_split": None, "weight": 0.2}
    files = {"train": [f"{corpus}/train-00001-*.parquet"], "dev": [f"{corpus}/dev-*.parquet"]}
    other = {"source": {"kind": "parquet", "splits": files}, "weight": 0.3, "eval_split": None}
    data = {"datasets": {"speech": {**dataset(corpus), "weight": 0.5}, "other": other, "digits": digits}}
    outcome, events = run(experiment(tmp_path, corpus, data=data, save_steps=1))
    assert outcome.reason == "finished"
    derived = next(event.values for event in events if event.kind == "derived")
    assert derived["utterances"] == 96 + 32 + 40
    data["datasets"]["digits"] = {**digits, "weight": 0.3}
    with pytest.raises(RunFolderError, match=r"weights was \[0.5, 0.3, 0.2\], is \[0.5, 0.3, 0.3\]"):
        run(experiment(tmp_path, corpus, data=data, max_steps=4), options=Options(allow_replan=True, extend=True))
    data["datasets"]["digits"] = {**digits, "weight": None}
    with pytest.raises(DataError, match=r"data.datasets.digits.weight: missing"):
        run(experiment(tmp_path / "again", corpus, data=data))


def test_stages_may_be_streamed_and_listed(tmp_path, corpus):
    digits = {"manifest": str(digits_manifest(tmp_path / "digits").folder), "eval_split": "test"}
    data = {"datasets": {"speech": dataset(corpus), "digits": digits}, "prepared_dir": str(tmp_path / "data")}
    stages = {"first": {"datasets": ["digits"]}, "second": {"datasets": ["speech"]}}
    outcome, events = run(tiny(tmp_path, manifest=corpus, stages=stages, batch_seconds=1.5, max_steps=2,
                               data={**data, "max_eval_samples": 5}))
    assert (outcome.reason, outcome.step) == ("finished", 4)
    assert [event.values["dataset"] for event in events if event.kind == "eval"] == ["digits", "speech"]


def test_listed_and_evaluated_alone_it_mixes_with_others(tmp_path, corpus):
    digits = {"manifest": str(digits_manifest(tmp_path / "digits").folder), "eval_split": "test", "weight": 0.5}
    listed = {**dataset(corpus, duration_column="duration"), "weight": 0.5}
    only_evaluated = {**dataset(corpus), "train_split": None}
    data = {"datasets": {"speech": listed, "digits": digits, "other": only_evaluated}}
    outcome, events = run(experiment(tmp_path, corpus, data=data))
    assert outcome.reason == "finished"
    assert sorted(event.values["dataset"] for event in events if event.kind == "eval") == ["digits", "other", "speech"]


@pytest.mark.parametrize(("allowed", "sentence"), [
    (False, "batch_seconds was 1.5, is 2.0"),
    (True, r"the streamed training data or its order is not that of step 3 \(.*budget was .* cannot be planned anew"),
])
def test_what_was_not_listed_is_not_planned_anew(tmp_path, corpus, allowed, sentence):
    run(experiment(tmp_path, corpus, save_steps=1))
    changed = experiment(tmp_path, corpus, max_steps=4, batch_seconds=2.0)
    with pytest.raises(RunFolderError, match=sentence):
        run(changed, options=Options(allow_replan=allowed, extend=True))


def test_listing_what_was_streamed_is_refused_with_both_named(tmp_path, corpus):
    run(experiment(tmp_path, corpus, save_steps=1))
    changed = experiment(tmp_path, corpus, max_steps=4, source={"duration_column": "duration"})
    with pytest.raises(RunFolderError, match="the data was streamed, is listed"):
        run(changed, options=Options(allow_replan=True, extend=True))


@pytest.mark.parametrize(("keys", "sentence"), [
    ({"train_split": "training"}, r"no split 'training'; did you mean 'train'\?"),
    ({"eval_split": "test"}, r"parquet: no split 'test'; .*Known: dev, train"),
])
def test_a_split_that_is_not_there_is_named(tmp_path, corpus, keys, sentence):
    with pytest.raises(DataError, match=sentence):
        run(experiment(tmp_path, corpus, data={"datasets": {"speech": {**dataset(corpus), **keys}}}))


def test_a_capped_manifest_keeps_few_row_groups(tmp_path, corpus):
    config = Config(splits={"train": [f"{corpus}/train-*.parquet"]}, duration_column="duration")
    manifest = prepare(config, tmp_path / "manifest", workers=1)
    some = capped(manifest, 20, seed=1)
    assert len(some) == 20
    assert len(np.unique(some.groups)) == 3
    assert some.rows.tolist() == sorted(some.rows.tolist())
    assert capped(manifest, 20, seed=2).ids != some.ids


def test_a_log_tells_when_a_server_does_not_answer(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(start, "MirrorEvents", lambda *_: SimpleNamespace(look=lambda: None))
    claim = SimpleNamespace(lock=SimpleNamespace(beat=lambda: None))
    beat = start._beat(claim, tmp_path, SimpleNamespace(write=lambda kind, **values: written.append((kind, values))))
    beat()
    outages.tell("hf://datasets", "503", 0.0)
    beat()
    beat()
    outages.settle()
    beat()
    assert [kind for kind, _ in written] == ["alarm"]
    assert "waiting for hf://datasets since" in written[0][1]["message"]
