import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from auricle.core.errors import ConfigError, ModelError
from auricle.data.chat_tokenizer import AUDIO, ChatTokenizer
from auricle.data.tokenizers import load_tokenizer

TRAINED = ChatTokenizer.train(["open the gate", "close the gate", "go to the gate"] * 5, 275)
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)


def theirs(template: str | None) -> PreTrainedTokenizerFast:
    """A tokenizer in the manner of Qwen3 and SmolLM3, which knows no audio."""
    inside = Tokenizer(models.BPE())
    inside.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inside.add_tokens(sorted(pre_tokenizers.ByteLevel.alphabet()))
    backend = PreTrainedTokenizerFast(tokenizer_object=inside, eos_token="<|endoftext|>")
    backend.add_tokens(["<|im_start|>", "<|im_end|>"], special_tokens=True)
    backend.chat_template = template
    return backend


@given(st.text())
def test_any_text_comes_back(text):
    assert TRAINED.decode(TRAINED.encode(text)) == text
    assert TRAINED.unknown(text) == ""


def test_it_is_as_large_as_it_was_asked_to_be_and_joins_what_is_frequent():
    assert TRAINED.size == 275
    assert len(TRAINED.encode("the gate")) < len("the gate") == len(TRAINED.spell("the gate"))
    with pytest.raises(ConfigError, match="expected at least 262"):
        ChatTokenizer.train(["a"], 100)


def test_special_tokens_are_single_and_no_text():
    assert TRAINED.encode(f"a{AUDIO}b").count(TRAINED.audio) == 1
    assert TRAINED.decode([*TRAINED.encode("a"), TRAINED.end]) == "a"


def test_it_comes_back_from_a_folder_and_from_another_process(tmp_path):
    TRAINED.save(tmp_path)
    for other in (load_tokenizer(tmp_path), pickle.loads(pickle.dumps(TRAINED))):
        assert (other.size, other.audio, other.end) == (TRAINED.size, TRAINED.audio, TRAINED.end)
        assert other.encode("open the gate") == TRAINED.encode("open the gate")
        assert other.prompt([{"role": "user", "content": "x"}]) == "<|user|>x<|end|><|assistant|>"


def test_a_pretrained_one_learns_where_audio_goes_and_keeps_its_own_end_of_turn(tmp_path):
    theirs(CHATML).save_pretrained(tmp_path)
    found = ChatTokenizer.load(str(tmp_path))
    assert found.backend.convert_ids_to_tokens(found.end) == "<|im_end|>"
    assert found.audio == found.size - 1
    assert found.prompt([{"role": "user", "content": "hi"}]).endswith("assistant\n<think>\n\n</think>\n\n")


@pytest.mark.parametrize(("template", "sentence"), [
    (None, "no chat template; expected an instruction-tuned model"),
    ("{{ messages[-1]['content'] }}", "writes nothing behind an answer"),
])
def test_a_tokenizer_that_cannot_hold_a_conversation_is_refused(tmp_path, template, sentence):
    theirs(template).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=sentence):
        ChatTokenizer.load(str(tmp_path))


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(ModelError, match="no tokenizer that transformers can read"):
        ChatTokenizer.load(str(tmp_path / "nothing"))
