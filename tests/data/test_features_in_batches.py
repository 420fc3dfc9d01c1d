"""Features from the manifest to a loss: the path that audio takes."""

import numpy as np
import pytest
import torch

from auricle.core.config import AugmentConfig, SpecAugmentConfig
from auricle.data.augment import Augment, stretched
from auricle.data.loader import EvaluationSet, Rows, TrainingSet, batches
from auricle.data.manifest import Manifest
from auricle.data.plan import Budget, micro_batches
from auricle.data.prepare import prepare
from auricle.data.sources.an4 import Config
from auricle.data.tokenizers import Characters
from auricle.models.conformer.model import Conformer
from auricle.models.parts.conformer import ConformerEncoder
from auricle.models.parts.precomputed import PrecomputedFeatures
from auricle.models.parts.subsampling import ConvSubsampling
from auricle.tasks.ctc.config import Config as CtcConfig
from auricle.tasks.ctc.task import CtcTask
from tests.corpora import an4, cepstra, write_an4

SPEEDS = [0.85, 0.9, 1.0, 1.1, 1.15]


def model_and_task():
    torch.manual_seed(0)
    letters = Characters(" ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    encoder = ConformerEncoder(ConvSubsampling(39, 16, 2, 4), width=16, layers=1, heads=2, dropout=0.0,
                               feedforward_factor=2, kernel=3)
    model = Conformer(PrecomputedFeatures(), encoder, torch.nn.Linear(16, letters.size + 1))
    return model, CtcTask(CtcConfig(normalizer="none"), model, letters)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Manifest:
    folder = tmp_path_factory.mktemp("an4")
    return prepare(Config(folder=str(an4(folder / "corpus"))), folder / "m", workers=1)


def training_set(manifest, **augment) -> TrainingSet:
    _, task = model_and_task()
    return TrainingSet(Rows([manifest.where(split="train")]), collate=task.collate, sample_rate=100,
                       budget=Budget(seconds=30.0), seed=3, augment=Augment(AugmentConfig(**augment), 3, 100))


def test_a_batch_has_the_features_of_the_files(manifest):
    data = training_set(manifest)
    place = next(micro_batches(data.plan, (0, 0), 0, 1))
    batch = data[place]
    for number, row in enumerate(place.rows):
        expected = PrecomputedFeatures()(data.rows[row].audio.read())
        assert batch.feature_lengths[number] == len(expected)
        torch.testing.assert_close(batch.features[number, : len(expected)], expected)
        assert not batch.features[number, len(expected) :].any()
    assert batch.seconds == pytest.approx(data.rows.seconds[list(place.rows)].sum())
    assert not batch.rejections


def test_speeds_give_the_lengths_of_the_plan(manifest):
    data = training_set(manifest, speeds=SPEEDS, spec_augment=SpecAugmentConfig())
    for place, _ in zip(micro_batches(data.plan, (1, 0), 0, 1), range(4), strict=False):
        batch = data[place]
        planned = data.lengths(1, np.asarray(place.rows), np.asarray(place.occurrences))
        np.testing.assert_allclose(batch.feature_lengths / 100, planned, atol=0.0051)
        assert batch.features.shape[0] * batch.features.shape[1] <= 30.0 * 100 * 1.02 + len(place.rows)
    assert len({float(speed) for speed in data.order.speeds(1, np.arange(40), np.zeros(40, np.int32))}) == len(SPEEDS)


def test_judging_knows_the_frames_that_the_loss_will_see(manifest):
    model, task = model_and_task()
    for speed in SPEEDS:
        frames = [len(stretched(manifest.row(row).audio.read(), speed)) for row in range(20)]
        expected = model.output_lengths(torch.tensor(frames)).tolist()
        assert task.checks().frames(manifest.seconds[:20] / speed).tolist() == expected


def test_masks_are_drawn_after_the_front_end(manifest):
    plain, masked = training_set(manifest), training_set(manifest, spec_augment=SpecAugmentConfig(time_width=20))
    place = next(micro_batches(plain.plan, (0, 0), 0, 1))
    one, other = plain[place].features, masked[place].features
    assert one.shape == other.shape
    assert 0.02 < (one != other).float().mean() < 0.9


def test_workers_load_the_same_and_a_loss_comes_of_it(manifest):
    data = training_set(manifest, speeds=SPEEDS)
    places = [place for place, _ in zip(micro_batches(data.plan, (0, 0), 0, 1), range(2), strict=False)]
    here, there = list(batches(data, places, 0)), list(batches(data, places, 1))
    torch.testing.assert_close([batch.features for batch in here], [batch.features for batch in there])
    model, task = model_and_task()
    loss = task.loss(model, here[0]).terms["ctc"]
    loss.sum.backward()
    assert torch.isfinite(loss.sum)
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert [h.id for h in task.predict(model.eval(), here[0])] == list(here[0].ids)


def test_a_file_that_is_damaged_after_preparation_is_counted(tmp_path):
    manifest = prepare(Config(folder=str(write_an4(tmp_path / "corpus"))), tmp_path / "m", workers=1)
    broken = manifest.row(1)
    broken.audio.path.write_bytes(broken.audio.path.read_bytes()[:-4])
    _, task = model_and_task()
    batch = EvaluationSet(Rows([manifest]), collate=task.collate, sample_rate=100)[[0, 1, 2]]
    assert [(r.reason, r.id) for r in batch.rejections] == [("unreadable", broken.id)]
    assert batch.feature_lengths.tolist() == [len(manifest.row(0).audio.read()), 0, len(manifest.row(2).audio.read())]


@pytest.mark.parametrize("speed", [0.5, 0.9, 1.1, 2.0])
def test_features_at_another_speed_are_the_same_curve(speed):
    """A straight line stays one, of another slope; its ends go on."""
    times = np.arange(100, dtype=np.float32)
    found = stretched(np.stack([times, 3 - 2 * times], 1), speed)
    assert found.shape == (np.ceil(100 / speed - 0.5), 2)
    slopes = np.diff(found[2:-2], axis=0)
    np.testing.assert_allclose(slopes, np.full_like(slopes, [speed, -2 * speed]), rtol=1e-4)
    assert found.dtype == np.float32


def test_nothing_at_any_speed_is_nothing_and_one_frame_stays_one():
    assert stretched(cepstra(0), 1.1).shape == (0, 13)
    assert stretched(cepstra(1), 3.0).shape == (1, 13)
    assert stretched(cepstra(5), 1.0).shape == (5, 13)
