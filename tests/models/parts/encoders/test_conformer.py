import pytest
import torch

from auricle.core.errors import ConfigError
from auricle.models.conformer.config import Config
from auricle.models.conformer.model import build as build_model
from auricle.models.parts.encoders.parts.build import build
from auricle.models.parts.encoders.parts.config import EncoderConfig
from tests.models.parts.encoders.small import CONFORMER, batch
from tests.utterances import words


def test_it_is_the_encoder_of_a_trained_conformer_under_the_same_names():
    trained = build_model(Config(**CONFORMER), 5).eval()
    encoder = build(EncoderConfig(kind="conformer", config=CONFORMER))
    encoder.load_state_dict(trained.encoder.state_dict())
    audio = words(1)[0].audio
    inputs = batch(encoder, [audio])
    assert torch.equal(encoder(*inputs)[0], trained.encoder(*inputs)[0])
    assert encoder.lengths(len(audio)) == trained.output_lengths(len(audio))


def test_the_front_end_is_what_the_config_says():
    keys = {**CONFORMER, "frontend": {"style": "kaldi", "n_mels": 40, "sample_rate": 8000}}
    frontend = build(EncoderConfig(kind="conformer", config=keys)).frontend
    assert (frontend.style, frontend.n_mels, frontend.sample_rate) == ("kaldi", 40, 8000)


@pytest.mark.parametrize(("changes", "said"), [
    ({"pretrained": "lab/conformer"}, r"encoder\.pretrained: not for kind 'conformer'.*pretrained_model_path"),
    ({"normalize": True}, r"encoder\.normalize: not for kind 'conformer'"),
    ({"config": {"widht": 16}}, r"encoder\.config: no key 'widht' \(16\); did you mean 'width'"),
    ({"config": {"width": 30, "heads": 4}}, "width 30 is no multiple of"),
    ({"config": {"kind": "whisper"}}, "kind is \"whisper\"")])
def test_what_does_not_fit_is_said(changes, said):
    with pytest.raises(ConfigError, match=said):
        build(EncoderConfig(kind="conformer", **changes))
