from types import SimpleNamespace

import pytest

from auricle.core.config import AugmentConfig
from auricle.core.errors import ConfigError, UsageError
from auricle.data.features import Layout
from auricle.models.parts.logmel import LogMel
from auricle.models.parts.precomputed import PrecomputedFeatures
from auricle.tasks.parts.media import (
    refuse_changes_of_audio,
    refuse_files_of_audio,
    refuse_other_media,
    takes,
)

CEPSTRA = Layout(13, 100.0)


def test_a_front_end_tells_what_it_takes():
    assert takes(LogMel()) is None
    assert takes(PrecomputedFeatures()) == CEPSTRA
    assert takes(PrecomputedFeatures(80, 50)) == Layout(80, 50.0)


@pytest.mark.parametrize(("frontend", "layouts", "sentence"), [
    (LogMel(), {CEPSTRA}, "features of 13 values, 100 a second, and this model takes audio"),
    (PrecomputedFeatures(), {None}, "holds audio, and this model takes features of 13"),
    (PrecomputedFeatures(), {CEPSTRA, None}, "holds audio"),
    (PrecomputedFeatures(width=80), {CEPSTRA}, "takes features of 80 values"),
    (PrecomputedFeatures(frame_rate=50), {CEPSTRA}, "takes features of 13 values, 50 a second"),
])
def test_another_signal_than_the_model_takes_is_refused(frontend, layouts, sentence):
    with pytest.raises(ConfigError, match=rf"^data set 'x': .*{sentence}"):
        refuse_other_media(frontend, layouts, "data set 'x'")


@pytest.mark.parametrize(("frontend", "layouts"), [
    (LogMel(), {None}), (LogMel(), frozenset()), (PrecomputedFeatures(), {CEPSTRA}), (PrecomputedFeatures(), set())])
def test_what_the_model_takes_and_text_alone_pass(frontend, layouts):
    refuse_other_media(frontend, layouts, "here")


@pytest.mark.parametrize(("changes", "name"), [
    ({"gain_db": (-6.0, 6.0)}, "gain_db"), ({"noise": {"folder": "noise"}}, "noise")])
def test_gain_and_noise_are_for_audio(changes, name):
    augment = AugmentConfig.model_validate(changes | {"speeds": [0.9, 1.1]}, strict=False)
    refuse_changes_of_audio(LogMel(), augment)
    with pytest.raises(ConfigError, match=rf"data\.augment\.{name}: changes audio"):
        refuse_changes_of_audio(PrecomputedFeatures(), augment)
    refuse_changes_of_audio(PrecomputedFeatures(), AugmentConfig(speeds=[0.9, 1.1]))


def test_a_recording_is_no_input_for_a_model_of_features():
    refuse_files_of_audio(SimpleNamespace(sample_rate=16000))
    with pytest.raises(UsageError, match="takes features of 13 values, 100 a second, and no audio"):
        refuse_files_of_audio(PrecomputedFeatures())
