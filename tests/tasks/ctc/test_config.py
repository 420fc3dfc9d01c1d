import pytest
from pydantic import ValidationError

from auricle.tasks.ctc.config import Config, TokenizerConfig


def test_characters_are_the_default():
    assert Config().tokenizer == TokenizerConfig(kind="characters")


@pytest.mark.parametrize("keys", [{"kind": "sentencepiece"}, {"vocabulary_size": 100}, {"kind": "bpe"}])
def test_a_vocabulary_size_belongs_to_pieces_alone(keys):
    with pytest.raises(ValidationError):
        TokenizerConfig(**keys)
