import pytest
import torch

from auricle.core.errors import UsageError
from auricle.data.tokenizers import Characters
from auricle.inference.hotwords import phrases_of, with_hotwords
from auricle.tasks.ctc.config import Config
from auricle.tasks.hybrid.config import Config as Hybrid
from auricle.tasks.parts.assembly import assemble
from tests.inference.parrot import parrot
from tests.models.conformer.test_model import tiny
from tests.tasks.hybrid.test_task import tiny as tiny_voxformer


def ctc(**settings):
    torch.manual_seed(0)
    return assemble(tiny(), Config(**settings), Characters("abc "))


@pytest.fixture
def file(tmp_path):
    (tmp_path / "words.txt").write_text("# places\n\n  Cab, ba!  \nabba\n", encoding="utf-8")
    return tmp_path / "words.txt"


def test_a_phrase_is_a_line_that_is_neither_blank_nor_a_comment(file):
    assert phrases_of(file) == {3: "Cab, ba!", 4: "abba"}


def test_the_model_is_the_same_and_its_task_knows_the_phrases_as_its_transcripts_are_written(file):
    before = ctc(decoder="beam", hotword_bonus=1.0)
    assembly = with_hotwords(before, file, None, "")
    assert assembly.model is before.model
    assert assembly.task_config.hotwords == ["Cab, ba!", "abba"]
    assert assembly.task_config.hotword_bonus == 1.0
    states, earned = assembly.task.hotwords.start, 0.0
    for label in [*assembly.tokenizer.encode("cab ba"), assembly.task.hotwords.end]:
        states, more = assembly.task.hotwords.step(states, label)
        earned += more
    assert earned == pytest.approx(6.0)
    assert before.task.hotwords is None
    assert with_hotwords(before, file, 7.5, "").task_config.hotword_bonus == 7.5
    assert with_hotwords(before, None, None, "greedy") is before


@pytest.mark.parametrize("decoder", ["beam", "all"])
def test_a_beam_may_be_asked_for_by_name_and_all_of_them(file, decoder):
    assert with_hotwords(ctc(), file, None, decoder).task.hotwords


def test_a_decoder_that_keeps_one_hypothesis_is_answered_with_the_beams_there_are(file):
    with pytest.raises(UsageError, match=r"'greedy' keeps one hypothesis .* Add --decoder beam$"):
        with_hotwords(ctc(), file, None, "")
    model = assemble(tiny_voxformer(), Hybrid(), Characters("abc "))
    with pytest.raises(UsageError, match=r"--decoder joint or --decoder attention_beam or --decoder ctc_beam$"):
        with_hotwords(model, file, None, "attention")
    assert with_hotwords(model, file, None, "").task.hotwords


def test_a_task_without_hotwords_names_those_that_have_them(file):
    with pytest.raises(UsageError, match=r"--hotwords: the task '.*' takes none; tasks that do: ctc, hybrid"):
        with_hotwords(parrot(), file, None, "")


@pytest.mark.parametrize(("content", "said"), [
    (b"ab\nbad cab\n", r"words\.txt:2: 'bad cab' has 'd', which the model has no label for"),
    (b"# c\n\n?!\n", r"words\.txt:3: nothing is left of '\?!'"),
    (b"# only\n\n", r"words\.txt: no phrase in it; expected one a line"),
    (b"\xff\xfea", r"words\.txt: not UTF-8 text \(byte 0\)"),
    (None, r"words\.txt: cannot be read \(No such file or directory\)"),
])
def test_a_bad_file_is_one_sentence_with_the_line(tmp_path, content, said):
    file = tmp_path / "words.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError, match=said) as caught:
        with_hotwords(ctc(decoder="beam"), file, None, "")
    assert "\n" not in str(caught.value)


def test_a_bonus_without_phrases_is_refused():
    with pytest.raises(UsageError, match="--hotword-bonus: belongs to phrases"):
        with_hotwords(ctc(decoder="beam"), None, 2.0, "")
