"""A run on Parquet files behind HTTP that dies, with a server that fails, is the uninterrupted one, bit for bit."""

from typing import Any

import pytest

from tests.journeys.children import Trainer, losses, standing, tensors, utterances
from tests.parquet import write_parts
from tests.ranges import RangeServer, serving

pytestmark = pytest.mark.slow

STEPS = 20


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("web")
    write_parts(folder)
    write_parts(folder, files=1, name="dev", first=1000)
    with serving(folder) as server:
        yield server


def settings_of(server: RangeServer, source: dict[str, Any], **keys: Any) -> dict[str, Any]:
    files = [f"{server.url}/train-{part:05d}-of-00003.parquet" for part in range(3)]
    splits = {"train": files, "dev": [f"{server.url}/dev-00000-of-00001.parquet"]}
    data = {
        "datasets": {"speech": {"source": {"kind": "parquet", "splits": splits, "id_column": "key", **source}}},
        "max_eval_samples": 6,
        "bucket_window": 24,
        "max_seconds": 0.68,
        "augment": {"speeds": [0.9, 1.0, 1.1]},
    }
    return {"manifest": server.folder, "data": data, "batch_seconds": 1.5, "max_steps": STEPS, "save_steps": 1, **keys}


@pytest.mark.parametrize("source", [{}, {"duration_column": "duration"}], ids=["streamed", "listed"])
def test_a_run_that_dies_with_other_workers_and_an_empty_cache_is_the_uninterrupted_one(tmp_path, server, source):
    homes = [tmp_path / name for name in ("straight", "dying")]
    for home in homes:
        home.mkdir()
    keys = {"data": settings_of(server, source)["data"] | {"prepared_dir": str(tmp_path / "data")}}
    straight = Trainer(home=homes[0], settings=settings_of(server, source, **keys, dataloader_num_workers=0),
                       environment={"AURICLE_CACHE": str(tmp_path / "cache0")})
    assert straight.run() == 0, straight.printed()
    for start, (step, phase, workers) in enumerate([(3, "loading", 2), (9, "optimizer", 0), (14, "forward", 1)]):
        server.faults.extend(["503", "cut", "503", "reset"])
        dying = Trainer(home=homes[1], settings=settings_of(server, source, **keys, dataloader_num_workers=workers),
                        kill=(step, phase), environment={"AURICLE_CACHE": str(tmp_path / f"cache{start + 1}")})
        assert dying.run() == -9, dying.printed()
        assert not server.faults
    last = Trainer(home=homes[1], settings=settings_of(server, source, **keys, dataloader_num_workers=2),
                   environment={"AURICLE_CACHE": str(tmp_path / "cache9")})
    assert last.run() == 0, last.printed()
    assert [event.step for event in last.events() if event.kind == "resume"]
    assert losses(last) == losses(straight)
    assert utterances(homes[1]) == utterances(homes[0])
    assert tensors(last.folder) == tensors(straight.folder)
    assert standing(last.folder) == standing(straight.folder)
    derived, = [event.values for event in straight.events() if event.kind == "derived"]
    assert ("estimated_from" in derived) == (not source)
    assert derived["epochs"] > 1
    assert all(event.values["utterances"] <= 6 for event in straight.events() if event.kind == "eval")
