import pytest

from auricle.core.decode import decode_block
from auricle.core.errors import ConfigError
from auricle.models.voxformer.config import Config, FeaturesConfig, chunk_frames

LOGMEL = {"kind": "logmel"}


def decoded(**keys) -> Config:
    return decode_block("models", {"kind": "voxformer", **keys})


def test_the_defaults_have_the_size_of_the_original():
    config = decoded()
    assert (config.frontend.kind, config.frontend.encoder.pretrained) == ("wave", "microsoft/wavlm-base")
    assert (config.encoder.width, config.encoder.heads, config.encoder.convolution_kernel) == (512, 8, 31)
    assert (config.decoder.layers, config.decoder.heads) == (4, 8)


@pytest.mark.parametrize("seconds", [0.08, 0.32, 0.64, 1.28, 2.0])
def test_a_chunk_has_fifty_frames_a_second(seconds):
    assert chunk_frames(seconds) == round(50 * seconds)


@pytest.mark.parametrize("seconds", [0.02, 0.1, 0.5, 0.0])
def test_a_chunk_that_cuts_a_frame_of_the_lowest_rate_is_refused(seconds):
    with pytest.raises(ValueError, match=r"expected a multiple of 0\.08 s"):
        chunk_frames(seconds)


@pytest.mark.parametrize(("rate", "factor"), [(100, 2), (200, 4), (400, 8)])
def test_features_of_these_rates_can_be_halved_to_fifty_hertz(rate, factor):
    assert FeaturesConfig(frame_rate=rate).factor == factor


@pytest.mark.parametrize(("keys", "said"), [
    ({"frontend": {"kind": "waves"}}, "wave"),
    ({"frontend": {"kind": "features", "frame_rate": 50}}, "a frame rate of 50; expected 100, 200 or 400"),
    ({"frontend": {"kind": "features", "frame_rate": 150}}, "a frame rate of 150"),
    ({"frontend": {"kind": "features", "frame_rate": 125}}, "a frame rate of 125"),
    ({"frontend": {"kind": "wave", "encoder": {"kind": "whisper"}}}, "encoder.kind is whisper; expected one that"),
    ({"encoder": {"kind": "conformer", "width": 30, "heads": 4}}, "width 30 is no multiple of 2 · heads"),
    ({"encoder": {"kind": "conformer", "convolution_kernel": 4}}, "convolution_kernel 4 is even"),
    ({"encoder": {"kind": "zipformer", "layers": [1, 2]}}, "layers has 2 values; expected one for each of the 5"),
    ({"decoder": {"heads": 7}}, "decoder.heads is 7; the encoder gives frames of width 512"),
    ({"streaming": {}}, "kind wave, which looks at the whole utterance"),
    ({"streaming": {}, "frontend": {**LOGMEL, "style": "whisper"}}, "style whisper, which looks at"),
    ({"streaming": {}, "frontend": {**LOGMEL, "normalize": "mean"}}, "normalize mean, which looks at"),
    ({"streaming": {"chunk_seconds": [0.5]}, "frontend": LOGMEL}, "a chunk of 0.5 s; expected a multiple of 0.08 s"),
    ({"streaming": {"chunk_seconds": []}, "frontend": LOGMEL}, "streaming.chunk_seconds"),
])
def test_what_does_not_fit_is_refused(keys, said):
    with pytest.raises(ConfigError, match=said.replace(".", r"\.")):
        decoded(**keys)


def test_training_for_streams_takes_features_as_they_come():
    assert decoded(frontend=LOGMEL, streaming={}).streaming.chunk_seconds == [0.32, 0.64, 1.28]
