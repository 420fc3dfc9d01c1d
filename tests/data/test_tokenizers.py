import json
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auricle.core.errors import ConfigError, DataError, ModelError
from auricle.data.tokenizers import Characters, SentencePiece, load_tokenizer, train_tokenizer

TEXTS = ["the cat sat on the mat", "a dog  digs deep", "שלום עולם", "naïve café", "¼ ﬁ e\u0301", " lead and trail "]
PIECES = SentencePiece.train(TEXTS * 5, 80)
LETTERS = Characters.train(TEXTS)
BOTH = pytest.mark.parametrize("tokenizer", [LETTERS, PIECES], ids=["characters", "sentencepiece"])
spelt = st.text(alphabet=sorted(set("".join(TEXTS))), max_size=30)


@BOTH
def test_what_is_encoded_is_decoded_to_the_letter(tokenizer):
    @settings(deadline=None)
    @given(text=spelt)
    def check(text):
        labels = tokenizer.encode(text)
        assert all(0 <= label < tokenizer.size for label in labels)
        assert tokenizer.decode(labels) == text
        assert tokenizer.unknown(text) == ""

    check()


@BOTH
def test_what_it_cannot_spell_is_told_and_gets_no_label(tokenizer):
    assert tokenizer.unknown("the Xat ate a ZX") == "XZ"
    assert tokenizer.encode("Xz") == tokenizer.encode("") + tokenizer.encode("Xz")
    assert tokenizer.decode(tokenizer.encode("catX")) == "cat"


def test_an_alphabet_is_sorted_and_complete_whatever_the_order_of_the_texts():
    assert Characters.train(["cab", "b d"]).alphabet == " abcd"
    assert Characters("dab").encode("bad") == [1, 0, 2]


def test_pieces_are_longer_than_characters():
    assert len(PIECES.encode("the the the")) < len("the the the")
    assert PIECES.size <= 80


def test_pieces_are_byte_pairs_in_the_order_of_joining_and_not_a_language_model():
    scores = [PIECES._pieces.get_score(label) for label in range(1, PIECES.size)]
    assert scores == [-float(rank) for rank in range(PIECES.size - 1)]


def test_a_text_with_sentencepiece_s_own_sign_is_unknown():
    assert PIECES.unknown("the\u2581cat") == "\u2581"


def test_the_unknown_piece_never_reaches_text():
    assert PIECES.decode([0, *PIECES.encode("cat"), 0]) == "cat"


def test_a_long_transcript_is_trained_on_too():
    assert SentencePiece.train(["a b c " * 2000 + "q"], 20).unknown("q") == ""


@BOTH
def test_a_saved_tokenizer_is_the_same(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    for same in (load_tokenizer(tmp_path), pickle.loads(pickle.dumps(tokenizer))):
        assert type(same) is type(tokenizer)
        assert same.size == tokenizer.size
        assert [same.encode(text) for text in TEXTS] == [tokenizer.encode(text) for text in TEXTS]


def test_both_kinds_are_trained_by_name():
    assert train_tokenizer("characters", ["ab", "", "c"]).size == 3
    assert train_tokenizer("sentencepiece", TEXTS, 60).unknown("mat") == ""


def test_training_on_nothing_is_refused():
    with pytest.raises(DataError, match="transcripts are empty"):
        train_tokenizer("characters", ["", ""])


def test_a_vocabulary_smaller_than_the_alphabet_is_refused():
    with pytest.raises(ConfigError, match="SentencePiece cannot make 4 pieces") as caught:
        train_tokenizer("sentencepiece", TEXTS, 4)
    assert "smaller than required" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("content", "message"), [
    (None, "no tokenizer.json"), ("{", "not a tokenizer"), ("[]", "not a tokenizer"),
    ('{"kind": "characters"}', "'alphabet'"), ('{"kind": "sentencepiece"}', "no tokenizer.model"),
    ('{"kind": "bpe"}', "kind 'bpe'; expected characters")])
def test_a_folder_without_a_tokenizer_is_one_sentence(tmp_path, content, message):
    if content:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ModelError, match=message):
        load_tokenizer(tmp_path)


def test_damaged_pieces_are_one_sentence(tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps({"kind": "sentencepiece"}))
    (tmp_path / "tokenizer.model").write_bytes(b"junk")
    with pytest.raises(ModelError, match="not a tokenizer"):
        load_tokenizer(tmp_path)
