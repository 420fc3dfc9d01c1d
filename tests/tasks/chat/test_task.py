import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from auricle.core.errors import ConfigError, ModelError, UsageError
from auricle.data.chat_tokenizer import ChatTokenizer
from auricle.data.loader import Utterance
from auricle.data.tokenizers import Characters
from auricle.inference.transcribe import transcribe
from auricle.models.conformer.model import build as build_conformer
from auricle.models.speech_llm.model import IGNORED
from auricle.models.speech_llm.model import build as build_model
from auricle.tasks.chat.config import Config
from auricle.tasks.chat.prompt import Prompter, Turn, asked_for, conversation
from auricle.tasks.chat.task import build, tokenizer_for
from auricle.tasks.parts.assembly import Assembly
from tests.models.conformer.test_model import tiny as tiny_conformer
from tests.models.speech_llm.test_model import DECODERS, tiny
from tests.speech import tone
from tests.utterances import WORDS, utterance, words

PRECISION = 1e-6
"""transformers normalises in float32."""


def example(config: Config | None = None, **changes):
    """What tests/contracts/test_tasks.py works with: (task, model)."""
    torch.manual_seed(0)
    config = config or Config(normalizer="basic", max_new_tokens=8)
    changes = {"ctc_alphabet": None, **changes}
    tokenizer = tokenizer_for(config, tiny(**changes), WORDS)
    model = build_model(tiny(**changes), tokenizer.size)
    return build(config, model, tokenizer), model


def text_row(text: str, heard: str) -> Utterance:
    return Utterance(id=f"text-{text}", audio=None, sample_rate=16_000, text=text, seconds=0.0, heard=heard)


def labelled(batch, row: int) -> list[int]:
    return [int(label) for label in batch.labels[row] if label != IGNORED]


def test_labels_are_the_answer_and_the_end_of_turn_and_nothing_else_in_a_ragged_batch():
    task, _ = example()
    batch = task.collate([*words(3), text_row("a cat", "aa ccat")])
    for row, text in enumerate((*batch.references[:3], "a cat")):
        answer = [*task.tokenizer.encode(text), task.tokenizer.end]
        assert labelled(batch, row) == answer
        stop = int(batch.valid[row].sum())
        assert batch.tokens[row, stop - len(answer) : stop].tolist() == answer, "at the end of the conversation"
        assert int(batch.prompt_lengths[row]) == stop - len(answer)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 5)), min_size=1, max_size=4))
def test_both_padding_sides_hold_the_same_conversations(sizes):
    turns = [Turn(list(range(1, prompt + 1)), list(range(20, 20 + answer))) for prompt, answer in sizes]
    for left in (False, True):
        talk = conversation(turns, audio=2, left=left)
        for row, turn in enumerate(turns):
            assert talk.ids[row][talk.valid[row]].tolist() == turn.ids
            assert [one for one in talk.labels[row].tolist() if one != IGNORED] == turn.answer
            assert (talk.ids[row] == talk.labels[row])[talk.labels[row] != IGNORED].all()
            assert talk.is_audio[row].tolist() == [bool(ok) and one == 2 for one, ok in
                                                   zip(talk.ids[row].tolist(), talk.valid[row], strict=True)]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 5)), min_size=1, max_size=4))
def test_what_is_asked_for_is_what_training_saw_up_to_the_answer(sizes):
    turns = [Turn(list(range(1, prompt + 1)), list(range(20, 20 + answer))) for prompt, answer in sizes]
    asked = asked_for(conversation(turns, audio=2), torch.tensor([prompt for prompt, _ in sizes]))
    expected = conversation([Turn(turn.prompt, []) for turn in turns], audio=2, left=True)
    for ours, theirs in zip(asked, expected, strict=True):
        assert torch.equal(ours, theirs)


def test_the_prompt_is_golden():
    tokenizer = ChatTokenizer.train(["open the gate"], 300)
    prompter = Prompter(tokenizer, "be brief", {"transcribe": "Transcribe: <audio>"})
    assert tokenizer.backend.decode(prompter.prompt("transcribe", 3)) == (
        "<|system|>be brief<|end|><|user|>Transcribe: <audio><audio><audio><|end|><|assistant|>")
    assert tokenizer.backend.decode(prompter.prompt("transcribe", 0, "oppen")) == (
        "<|system|>be brief<|end|><|user|>Transcribe: oppen<|end|><|assistant|>")
    assert tokenizer.backend.decode(prompter.answer("open")) == "open<|end|>"


@settings(deadline=None, max_examples=60)
@given(samples=st.integers(0, 60_000))
def test_there_are_as_many_placeholders_as_the_projector_yields(samples):
    task, model = EXAMPLE
    one = Utterance(id="x", audio=np.zeros(samples, np.float32), sample_rate=16_000, text="cat", seconds=samples / 16e3)
    batch = task.collate([one])
    with torch.no_grad():
        encoded, lengths = model.encoder(batch.features, batch.feature_lengths)
        projected = model.projector(encoded, lengths)
    assert int(batch.is_audio.sum()) == int(projected.lengths[0]) == int(model.audio_tokens(torch.tensor(samples)))


EXAMPLE = example()


def test_a_row_of_text_stands_where_audio_would():
    task, model = example()
    batch = task.collate([text_row("cat", "ccaat")])
    said = task.tokenizer.backend.decode(batch.tokens[0][batch.valid[0]].tolist())
    assert said == "<|user|>Transcribe: ccaat<|end|><|assistant|>cat<|end|>"
    assert (batch.seconds, batch.counts["cross_entropy"]) == (0.0, len(task.tokenizer.encode("cat")) + 1)
    mixed = task.collate([text_row("cat", "ccaat"), *words(2)])
    alone = sum(task.loss(model.eval(), one).terms["cross_entropy"].sum.item()
                for one in (batch, task.collate(words(1)), task.collate(words(2)[1:])))
    assert task.loss(model, mixed).terms["cross_entropy"].sum.item() == pytest.approx(alone, rel=1e-5)


def test_label_smoothing_is_a_term_of_its_own_and_none_of_the_evaluations():
    config = Config(normalizer="basic", label_smoothing_factor=0.1)
    task, model = example(config)
    batch = task.collate(words(2))
    with torch.no_grad():
        training, evaluated = (task.loss(model.train(on), batch).terms for on in (True, False))
    assert training.keys() == {"cross_entropy", "label_smoothing"}
    assert evaluated.keys() == {"cross_entropy"}
    assert evaluated["cross_entropy"].weight == 1.0
    model.eval()
    found = model(batch.features, batch.feature_lengths, batch.conversation)
    smoothed = 0.9 * found.cross_entropy + 0.1 * found.smoothing
    hidden = model.language_model.base_model
    assert smoothed.item() == pytest.approx(_by_torch(model, batch, hidden).item(), rel=1e-5)


def _by_torch(model, batch, _):
    """torch's own smoothed cross entropy over full logits."""
    embedded, *_ = model._embedded(batch.features, batch.feature_lengths, batch.conversation)
    logits = model.language_model(inputs_embeds=embedded, attention_mask=batch.valid.long()).logits  # (B, S, V)
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), batch.labels[:, 1:].flatten(), ignore_index=IGNORED, label_smoothing=0.1,
        reduction="sum")


def test_a_projectors_own_losses_are_terms_while_training_only():
    task, model = example(projector={"kind": "shared_moe", "hidden": 8})
    batch = task.collate(words(3))
    training = task.loss(model.train(), batch)
    assert training.terms.keys() == {"cross_entropy", "balance", "z"}
    assert training.terms["balance"].per_batch
    assert training.terms["z"].count == batch.counts["z"] == float(batch.is_audio.sum())
    assert training.health.keys() >= {"load_entropy", "dead_experts"}
    assert task.loss(model.eval(), batch).terms.keys() == {"cross_entropy"}
    assert task.loss(model.train(), task.collate([])).terms.keys() == {"cross_entropy", "balance", "z"}


@pytest.mark.parametrize("decoder", DECODERS)
def test_hypotheses_do_not_depend_on_the_batch_nor_on_the_cache(decoder):
    task, model = example(decoder={"config": DECODERS[decoder]})
    utterances = words(16)
    model.eval()
    together = [one.text for one in task.predict(model, task.collate(utterances))]
    alone = [task.predict(model, task.collate([one]))[0].text for one in utterances]
    assert together == alone
    batch = task.collate(utterances)
    asked = asked_for(batch.conversation, batch.prompt_lengths)
    cached, uncached = (model.generate(batch.features, batch.feature_lengths, asked,
                                       generation_config=task._generation(use_cache=use)) for use in (True, False))
    assert torch.equal(cached, uncached)


def test_training_and_generation_see_the_same_prompt_at_the_same_positions():
    task, model = example()
    model.eval()
    batch = task.collate(words(3))
    asked = asked_for(batch.conversation, batch.prompt_lengths)
    first = model.generate(batch.features, batch.feature_lengths, asked,
                           generation_config=task._generation(output_logits=True, return_dict_in_generate=True))
    embedded, *_ = model._embedded(batch.features, batch.feature_lengths, batch.conversation)
    logits = model.language_model(inputs_embeds=embedded, attention_mask=batch.valid.long()).logits
    trained = logits[torch.arange(3), batch.prompt_lengths - 1]
    torch.testing.assert_close(first.logits[0], trained, atol=1e-5, rtol=0)


def test_nothing_after_the_end_of_turn_reaches_the_text():
    task, _ = example()
    end = task.tokenizer.end
    assert task._text(torch.tensor([*task.tokenizer.encode("cat"), end, *task.tokenizer.encode("bed")])) == "cat"
    assert task._text(torch.tensor([end, end])) == ""


def test_streaming_says_what_predicting_says():
    task, model = example()
    model.eval()
    for one in words(2):
        batch = task.collate([one])
        assert "".join(task.stream(model, batch)) == task.predict(model, batch)[0].text
    assert list(task.stream(model, task.collate([utterance(0.0, "cat")]))) == []


def test_a_long_file_is_cut_to_what_the_task_says_it_takes(tmp_path):
    task, model = example(Config(normalizer="basic", max_new_tokens=4, max_seconds=1.0))
    made = Assembly(model=model.eval(), task=task, tokenizer=task.tokenizer, model_config=model.config,
                    task_config=task.config, vocabulary=task.tokenizer.size)
    pause = np.zeros(4800, np.float32)
    soundfile.write(tmp_path / "long.wav", np.concatenate([x for _ in range(4) for x in (tone(0.8), pause)]), 16_000)
    found, = transcribe(made, [tmp_path / "long.wav"])
    assert len(found.segments) == 4
    assert all(one.stop - one.start <= 1.0 for one in found.segments)


@pytest.mark.timeout(30)
def test_a_generation_that_fails_while_it_is_streamed_is_an_error_and_no_endless_wait(monkeypatch):
    task, model = example()

    def fail(*_, **__):
        raise torch.OutOfMemoryError("no memory left")

    monkeypatch.setattr(model.language_model, "generate", fail)
    with pytest.raises(torch.OutOfMemoryError, match="no memory left"):
        list(task.stream(model.eval(), task.collate(words(1))))


def test_beams_are_found_too():
    task, model = example()
    assert len(task.predict(model.eval(), task.collate(words(2)), "beam")) == 2
    with pytest.raises(UsageError, match="no 'beem'; did you mean 'beam'"):
        task.predict(model, task.collate(words(1)), "beem")


def test_a_row_asks_what_its_data_set_says():
    task, _ = example()
    one = words(1)[0]
    other = Utterance(id=one.id, audio=one.audio, sample_rate=one.sample_rate, text=one.text, seconds=one.seconds,
                      instruction="emotion")
    said = [task.tokenizer.backend.decode(task.collate([u]).tokens[0].tolist()) for u in (one, other)]
    assert said[0].startswith("<|user|>Transcribe: <audio>")
    assert said[1].startswith("<|user|>Emotion: <audio>")
    with pytest.raises(UsageError, match="no 'emotions'; did you mean 'emotion'"):
        task.prompter.prompt("emotions", 1)


@pytest.mark.parametrize(("changes", "sentence"), [
    ({"instruction": "transcibe"}, "did you mean 'transcribe'"),
    ({"instructions": {"translate": "Translate:"}}, "expected <audio> in it once"),
])
def test_a_mistake_in_the_block_is_one_sentence(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        Config(**changes)


def test_a_model_or_a_tokenizer_of_another_kind_is_refused():
    with pytest.raises(ConfigError, match="needs a model with a language model"):
        build(Config(), build_conformer(tiny_conformer(), 5), Characters("abc"))
    with pytest.raises(ConfigError, match="this one is Characters"):
        build(Config(), EXAMPLE[1], Characters("abc"))
    with pytest.raises(ConfigError, match=r"expected model\.kind speech_llm"):
        tokenizer_for(Config(), tiny_conformer(), [])
    with pytest.raises(ModelError, match="entries, the model's embedding"):
        build(Config(), build_model(tiny(), 8), EXAMPLE[0].tokenizer)
