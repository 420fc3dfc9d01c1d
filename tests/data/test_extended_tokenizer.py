import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auricle.core.errors import UsageError
from auricle.data.extended_tokenizer import Extended, extended
from auricle.data.tokenizers import Characters, SentencePiece, load_tokenizer

TEXTS = ["the cat sat on the mat", "a dog  digs deep", " lead and trail ", "category of cats", "לחיים"]
OLD = [Characters.train(TEXTS), SentencePiece.train(TEXTS * 5, 48)]
WORDS = ["sat", "trail", "deep", "stone"]
BOTH = pytest.mark.parametrize("old", OLD, ids=["characters", "sentencepiece"])
OTHERS = ["cat", "cats", "satdeep", "a", "deeper", " ", "  ", "לחיים", "-"]
texts = st.lists(st.sampled_from([*WORDS, *OTHERS])).map(" ".join)


def as_before(new: Extended, labels: list[int], size: int) -> list[int]:
    """With the old spelling in the place of each new label."""
    back = {spelling[0]: label for label, spelling in enumerate(new.spellings[:size]) if len(spelling) == 1}
    return [back[inner] for label in labels for inner in new.spellings[label]]


@BOTH
def test_a_text_has_its_old_labels_or_one_new_one_a_whole_word(old):
    new, origins = extended(old, WORDS)
    assert len(origins) == new.size - old.size == len(WORDS)

    @settings(deadline=None)
    @given(texts)
    def check(text):
        labels = new.encode(text)
        assert as_before(new, labels, old.size) == old.encode(text)
        assert sum(label >= old.size for label in labels) == sum(word in WORDS for word in text.split())
        assert new.decode(labels) == old.decode(old.encode(text))
        assert new.unknown(text) == old.unknown(text)

    check()


@BOTH
def test_old_labels_keep_their_numbers(old):
    new, _ = extended(old, WORDS)
    for text in ("the cat", "a dog  digs", " lead and ", "cats of category", "saturn"):
        assert new.encode(text) == old.encode(text)


@BOTH
def test_the_origin_of_a_word_is_its_spelling(old):
    new, origins = extended(old, WORDS)
    for number, word in enumerate(WORDS):
        assert new.encode(word) == [old.size + number]
        assert origins[number] == tuple(old.encode(word))


@BOTH
def test_a_character_that_nothing_spelled_gets_a_label_too(old):
    new, origins = extended(old, ["ü5", "sat"])
    assert new.size == old.size + 4
    assert new.unknown("ü5 sat ß") == "ß"
    assert new.decode(new.encode("the ü5 of 5üs  sat")) == "the ü5 of 5üs  sat"
    assert new.encode("the ü5")[-1] == old.size + 2
    assert origins[:2] == [tuple(range(old.size))] * 2, "nothing is known of it"
    assert set(origins[2]) >= {old.size, old.size + 1}
    assert new.encode("the cats of a dog") == old.encode("the cats of a dog")


@BOTH
def test_what_is_one_label_already_gets_no_other(old):
    new, origins = extended(old, ["sat", "sat", "a"])
    again, none = extended(new, ["sat"])
    assert len(origins) == 1
    assert (again, none) == (new, [])


def test_the_same_letter_again_and_again_would_be_a_tie():
    new, origins = extended(Characters("ab "), ["aaa", "aab"])
    assert new.encode("aaa aab") == [1, 1, 1, 0, 3]
    assert origins == [(1, 1, 2)]


@BOTH
def test_an_extended_tokenizer_can_be_extended(old):
    first, _ = extended(old, ["sat", "ü"])
    second, origins = extended(first, ["trail", "saturn", "ö"])
    assert second.size == first.size + len(origins)
    for text in ("the cat sat on ü", "a sat", "category"):
        assert second.encode(text) == first.encode(text)
    assert second.encode("trail")[0] >= first.size
    assert second.decode(second.encode("ö ü sat saturn")) == "ö ü sat saturn"


@BOTH
def test_a_saved_one_is_the_same(old, tmp_path):
    new, _ = extended(old, [*WORDS, "ü5"])
    new.save(tmp_path)
    for same in (load_tokenizer(tmp_path), pickle.loads(pickle.dumps(new))):
        assert same == new != old
        assert hash(same) == hash(new)
        assert [same.encode(text) for text in (*TEXTS, "ü5 sat")] == [new.encode(text) for text in (*TEXTS, "ü5 sat")]
    old.save(tmp_path)
    assert load_tokenizer(tmp_path) == old != new


@pytest.mark.parametrize("word", ["", "two words", "the\u2581cat"])
def test_what_is_no_word_is_refused(word):
    with pytest.raises(UsageError, match="is no word"):
        extended(OLD[1], ["sat", word])
