import pytest
from pydantic import ValidationError

from auricle.core.compose import compose
from auricle.core.decode import decode
from auricle.core.errors import ConfigError
from auricle.tasks.hybrid.config import Config, WeightSchedule


def test_a_weight_is_a_number_or_a_line_and_a_number_stays_where_it_is():
    assert [Config(ctc_weight=0.4).ctc_schedule.at(steps) for steps in (0, 1, 10**6)] == [0.4] * 3
    line = Config.model_validate({"ctc_weight": {"start": 0.8, "end": 0.3, "steps": 10}}).ctc_schedule
    assert line == WeightSchedule(start=0.8, end=0.3, steps=10)
    assert [line.at(steps) for steps in (0, 4, 10, 11)] == pytest.approx([0.8, 0.6, 0.3, 0.3])


@pytest.mark.parametrize("keys", [
    {"ctc_weight": 1.5}, {"ctc_weight": {"start": 0.8, "end": 0.3}}, {"ctc_weight": {"start": 2, "end": 0, "steps": 1}},
    {"ctc_weight": {"start": 0.8, "end": 0.3, "steps": 0}}, {"decoder": "greedy"}, {"chunk_seconds": 0.1},
    {"label_smoothing_factor": -0.1}, {"hotword_bonus": -1}, {"length_penalty": -1}, {"max_seconds": 0}])
def test_values_that_make_no_sense_are_refused(keys):
    with pytest.raises(ValidationError):
        Config.model_validate(keys)


@pytest.mark.parametrize(("override", "said"), [
    ("task.ctc_weight=1.5", r"task\.ctc_weight is 1\.5; expected a value less than or equal to 1"),
    ("task.ctc_weight={start: 0.8, end: 0.3}", r"'task\.ctc_weight\.steps' is missing"),
    ("task.chunk_seconds=0.3", r"a chunk of 0\.3 s; expected a multiple of 0\.08 s")])
def test_a_mistake_is_one_sentence_and_not_one_for_each_shape_that_a_weight_may_have(override, said):
    with pytest.raises(ConfigError, match=said) as caught:
        decode(compose(["task=hybrid", override]))
    assert "\n" not in str(caught.value)


def test_the_presets_spell_in_characters_and_in_the_byte_pairs_of_the_original():
    plain, pairs = (decode(compose([f"task={name}"])).task for name in ("hybrid", "hybrid_bpe"))
    assert plain == Config()
    assert (pairs.tokenizer.kind, pairs.tokenizer.vocabulary_size) == ("sentencepiece", 2000)
    assert (pairs.ctc_weight, pairs.label_smoothing_factor) == (0.3, 0.1)
