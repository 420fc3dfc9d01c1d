import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from auricle.core.config import AugmentConfig, NoiseConfig, SpecAugmentConfig, TextNoiseConfig
from auricle.core.errors import DataError
from auricle.data.augment import Augment, FeatureMasks, GarbledText, add_noise
from auricle.data.draws import id_hashes

RATE = 16_000


def augment(**keys) -> Augment:
    return Augment(AugmentConfig(**keys), seed=1, sample_rate=RATE)


def tone(seconds: float = 0.5) -> np.ndarray:
    return np.sin(np.arange(int(seconds * RATE)) * 0.1).astype(np.float32) * 0.1


def test_speeds_are_drawn_evenly_and_anew_each_epoch():
    made, hashes = augment(speeds=[0.9, 1.0, 1.1]), id_hashes([str(n) for n in range(3000)])
    zero = np.zeros(3000, np.int32)
    first, second = made.speed_factors(0, hashes, zero), made.speed_factors(1, hashes, zero)
    for speed in (0.9, 1.0, 1.1):
        assert abs((first == speed).sum() - 1000) < 120
    assert (first != second).mean() > 0.5
    assert (made.speed_factors(0, hashes, zero) == first).all()


@pytest.mark.parametrize("speed", [0.9, 1.0, 1.1])
def test_speed_changes_the_length_by_its_factor(speed):
    audio = augment(speeds=[speed]).audio(tone(), speed, np.random.default_rng(0))
    assert abs(len(audio) - len(tone()) / speed) <= 2
    assert audio.dtype == np.float32


def test_gain_scales_and_nothing_else():
    audio = augment(gain_db=(6.0, 6.0)).audio(tone(), 1.0, np.random.default_rng(0))
    np.testing.assert_allclose(audio, tone() * 10 ** (6 / 20), rtol=1e-5)


@given(st.floats(-5, 30), st.integers(1, 4000), st.integers(0, 100))
def test_noise_is_added_at_the_drawn_signal_to_noise_ratio(snr_db, noise_samples, seed):
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal(noise_samples).astype(np.float32)
    clean = tone()
    added = add_noise(clean, noise, snr_db, rng) - clean
    assert 10 * np.log10(np.mean(clean**2) / np.mean(added**2)) == pytest.approx(snr_db, abs=0.05)


def test_silence_stays_silence_and_empty_audio_stays_empty():
    rng = np.random.default_rng(0)
    assert not add_noise(np.zeros(100, np.float32), np.ones(10, np.float32), 10, rng).any()
    assert add_noise(np.zeros(0, np.float32), np.ones(10, np.float32), 10, rng).shape == (0,)


def test_noise_comes_from_the_folder(tmp_path):
    soundfile.write(tmp_path / "hum.wav", np.random.default_rng(0).standard_normal(RATE) * 0.1, RATE)
    made = augment(noise=NoiseConfig(folder=str(tmp_path), probability=1.0, snr_db=(0.0, 0.0)))
    noisy = made.audio(tone(), 1.0, np.random.default_rng(0))
    assert np.mean((noisy - tone()) ** 2) == pytest.approx(np.mean(tone() ** 2), rel=0.01)


def test_a_noise_folder_without_recordings_is_named(tmp_path):
    with pytest.raises(DataError, match=r"noise\.folder: no recording below"):
        augment(noise=NoiseConfig(folder=str(tmp_path)))


@given(st.integers(0, 300), st.integers(1, 80), st.integers(0, 50))
def test_masks_are_filled_with_the_mean_and_stay_within_their_widths(frames, bins, seed):
    features = np.random.default_rng(seed).standard_normal((frames, bins)).astype(np.float32)
    config = SpecAugmentConfig(frequency_masks=1, frequency_width=8, time_masks=1, time_width=30, time_fraction=0.2)
    masked = FeatureMasks(config, np.random.default_rng(seed))(features)
    changed = masked != features
    if frames:
        np.testing.assert_allclose(masked[changed], features.mean(), rtol=1e-4, atol=1e-5)
        rows, columns = changed.all(1).sum(), changed.all(0).sum()
        assert rows <= min(30, int(frames * 0.2)) or columns == bins
        assert columns <= 8 or rows == frames
    assert masked.shape == features.shape


def test_masks_do_not_write_into_what_they_were_given():
    features = np.ones((50, 20), np.float32) * np.arange(20, dtype=np.float32)
    before = features.copy()
    FeatureMasks(SpecAugmentConfig(), np.random.default_rng(1))(features)
    assert (features == before).all()


def garbled(text: str, **keys) -> str:
    settings = {"stretch": (1, 1), "delete": 0.0, "substitute": 0.0, "insert": 0.0, **keys}
    rng = np.random.default_rng(3)
    times = 200 if len(text) > 40 else 1
    return "".join(GarbledText(TextNoiseConfig(**settings), rng)(one) for one in [text] * times)


@given(st.text(min_size=1, max_size=40), st.integers(1, 3), st.integers(0, 2))
def test_stretched_text_is_the_text_each_character_a_few_times(text, low, more):
    stretched = garbled(text, stretch=(low, low + more))
    assert low * len(text) <= len(stretched) <= (low + more) * len(text)
    if not more:
        assert stretched == "".join(character * low for character in text)


def test_characters_are_lost_mistaken_and_made_up_as_often_as_asked_for():
    text = "open the gate and close it again, and then " * 2
    whole = text * 200
    assert garbled(text) == whole
    assert len(garbled(text, delete=0.4)) == pytest.approx(0.8 * len(whole), rel=0.05), "half of it on average"
    assert len(garbled(text, insert=0.4)) == pytest.approx(1.2 * len(whole), rel=0.05)
    changed = sum(a != b for a, b in zip(whole, garbled(text, substitute=0.4), strict=True))
    assert changed == pytest.approx(0.2 * len(whole), rel=0.25), "some are mistaken for themselves"
    assert set(garbled(text, substitute=0.5, insert=0.5)) <= set(text)
    assert garbled("") == ""
