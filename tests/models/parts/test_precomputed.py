import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from auricle.models.parts.precomputed import PrecomputedFeatures, delta
from tests.corpora import cepstra


def by_the_formula(features):
    """HTK book, equation 5.16, frame by frame; frames before the first are the first, after the last the last."""
    last = len(features) - 1
    rows = []
    for t in range(len(features)):
        above = sum(theta * (features[min(t + theta, last)] - features[max(t - theta, 0)]) for theta in (1, 2))
        rows.append(above / (2 * (1**2 + 2**2)))
    return np.stack(rows)


@settings(deadline=None)
@given(frames=st.integers(1, 40), width=st.integers(1, 20), seed=st.integers(0, 99))
def test_deltas_are_those_of_the_formula(frames, width, seed):
    features = cepstra(frames, seed, width)
    found = PrecomputedFeatures(width, normalize="none")(features).numpy()
    first = by_the_formula(features)
    np.testing.assert_allclose(found, np.concatenate([features, first, by_the_formula(first)], 1), atol=1e-6)


def test_the_delta_of_a_line_is_its_slope():
    line = torch.arange(10.0).unsqueeze(1) * torch.tensor([0.5, -2.0])
    torch.testing.assert_close(delta(line)[2:-2], torch.tensor([0.5, -2.0]).expand(6, 2))


@pytest.mark.parametrize("deltas", [0, 1, 2])
def test_as_many_frames_come_out_and_the_width_is_told(deltas):
    frontend = PrecomputedFeatures(13, 100, deltas)
    assert (frontend.sample_rate, frontend.n_mels) == (100, 13 * (1 + deltas))
    for frames in (0, 1, 2, 57):
        features = frontend(cepstra(frames))
        assert features.shape == (frontend.lengths(frames), frontend.n_mels)
        assert features.dtype == torch.float32
        assert torch.isfinite(features).all()
    assert frontend.lengths(torch.tensor([3, 0])).tolist() == [3, 0]


def test_each_column_is_normalised_over_the_utterance():
    loud = cepstra(200) * np.linspace(0.1, 30, 13, dtype=np.float32) + 5
    features = PrecomputedFeatures()(loud)
    torch.testing.assert_close(features.mean(0), torch.zeros(39), atol=1e-5, rtol=0)
    torch.testing.assert_close(features.std(0, correction=0), torch.ones(39))
    means = PrecomputedFeatures(normalize="mean")(loud)
    torch.testing.assert_close(means.std(0, correction=0)[:13], torch.from_numpy(loud).std(0, correction=0))


def test_it_travels_to_workers_without_parameters_and_reads_what_is_read_only():
    frontend = pickle.loads(pickle.dumps(PrecomputedFeatures()))
    features = cepstra(9)
    features.flags.writeable = False
    assert not list(frontend.parameters())
    assert not frontend.state_dict()
    torch.testing.assert_close(frontend(features), PrecomputedFeatures()(torch.from_numpy(features.copy())))
    assert frontend.takes == "features"
