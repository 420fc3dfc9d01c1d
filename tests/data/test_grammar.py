import pytest
from hypothesis import given
from hypothesis import strategies as st

from auricle.core.errors import ConfigError
from auricle.data.grammar import Grammar, Lines, grammar


def test_the_game_commands_are_many_and_of_few_words():
    commands = grammar("game_commands")
    sentences = {commands.sentence(number) for number in range(5000)}
    assert len(sentences) > 2000
    assert {word for sentence in sentences for word in sentence.split()} == commands.words
    assert 100 <= len(commands.words) <= 160
    assert set("".join(commands.words)) <= set("abcdefghijklmnopqrstuvwxyz")


@given(st.integers())
def test_a_sentence_depends_on_its_key_alone(number):
    commands = grammar("game_commands")
    assert commands.sentence("a", number) == commands.sentence("a", number)
    assert "<" not in commands.sentence("a", number)


def test_every_alternative_is_drawn():
    rules = Grammar({"sentence": ["<who> <what>", "stop"], "who": ["a", "b"], "what": ["go", "<who> run"]}, "here")
    endings = ("go", "a run", "b run")
    assert {rules.sentence(n) for n in range(500)} == {"stop", *(f"{who} {end}" for who in "ab" for end in endings)}


@pytest.mark.parametrize(("rules", "sentence"), [
    ({"order": ["go"]}, "no rule 'sentence'"),
    ({"sentence": ["go <wher>"], "where": ["north"]}, "no rule 'wher' as sentence asks; did you mean 'where'"),
    ({"sentence": ["<a>"], "a": ["<b>"], "b": ["x", "<a>"]}, r"rule 'a' contains itself \(sentence > a > b > a\)"),
])
def test_rules_that_cannot_end_are_refused(rules, sentence):
    with pytest.raises(ConfigError, match=sentence):
        Grammar(rules, "here")


@pytest.mark.parametrize(("text", "sentence"), [
    ("sentence: [go", "not YAML"), ("- go", "no rules; expected names"), ("sentence: [go, no]", "quote yes, no"),
    ("sentence: go", "expected a list of texts"), ("sentence: []", "expected a list of texts"),
])
def test_a_grammar_file_that_is_none_is_refused(tmp_path, text, sentence):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match=sentence):
        grammar(str(tmp_path / "mine.yaml"))


def test_a_grammar_of_ones_own_is_a_file(tmp_path):
    (tmp_path / "mine.yaml").write_text("sentence: [<colour> door]\ncolour: [red, blue]\n")
    assert {grammar(str(tmp_path / "mine.yaml")).sentence(n) for n in range(50)} == {"red door", "blue door"}


def test_lines_are_drawn_from_a_file(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\n  two \n")
    assert {Lines(tmp_path / "a.txt").sentence(n) for n in range(50)} == {"one", "two"}
    (tmp_path / "a.txt").write_text("\n")
    with pytest.raises(ConfigError, match="is empty"):
        Lines(tmp_path / "a.txt")
