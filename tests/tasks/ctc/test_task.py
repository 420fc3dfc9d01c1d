import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from auricle.core.errors import ConfigError, UsageError
from auricle.data.judge import Facts, judge
from auricle.data.tokenizers import Characters
from auricle.models.conformer.model import build as build_model
from auricle.tasks.ctc.config import Config, TokenizerConfig
from auricle.tasks.ctc.task import build, tokenizer_for
from tests.models.conformer.test_model import tiny
from tests.utterances import WORDS, utterance, words


def example():
    """What tests/contracts/test_tasks.py works with: (task, model)."""
    torch.manual_seed(0)
    tokenizer = tokenizer_for(Config(), tiny(), WORDS)
    model = build_model(tiny(), tokenizer.size)
    return build(Config(), model, tokenizer), model


def by_hand(model, task, one):
    """-log p of one utterance alone."""
    features = task.frontend(one.audio).unsqueeze(0).double()
    logits, lengths = model(features, torch.tensor([features.shape[1]]))
    labels = torch.tensor(task.tokenizer.encode(one.text))
    return torch.nn.functional.ctc_loss(logits.log_softmax(-1).transpose(0, 1), labels, lengths,
                                        torch.tensor([len(labels)]), blank=task.tokenizer.size, reduction="sum")


def in_double(batch):
    return replace(batch, features=batch.features.double())


def test_the_loss_is_the_sum_over_utterances_of_their_own_losses():
    task, model = example()
    model.double()
    utterances = words(4)
    term = task.loss(model, in_double(task.collate(utterances))).terms["ctc"]
    assert term.sum.item() == pytest.approx(sum(by_hand(model, task, one).item() for one in utterances), rel=1e-9)
    assert term.count == sum(len(one.text) for one in utterances)
    assert term.sum.dtype == torch.float64


def test_the_loss_is_at_least_fp32_whatever_the_logits_are():
    task, model = example()
    batch = task.collate(words(2))
    loss = task.loss(model, batch).terms["ctc"].sum
    with torch.autocast("cpu", torch.bfloat16):
        rough = task.loss(model, batch).terms["ctc"].sum
    assert rough.dtype == torch.float32
    assert rough.item() == pytest.approx(loss.item(), rel=0.02)


def test_a_model_in_half_precision_has_its_loss_in_fp32():
    task, model = example()
    batch = task.collate(words(2))
    loss = task.loss(model.bfloat16(), replace(batch, features=batch.features.bfloat16())).terms["ctc"].sum
    assert loss.dtype == torch.float32


def test_features_are_those_of_the_front_end_padded_with_zeros():
    task, _ = example()
    utterances = [utterance(0.31, "cat"), utterance(0.5, "bed")]
    batch = task.collate(utterances)
    assert batch.features.shape == (2, 50, 80)
    assert batch.feature_lengths.tolist() == [31, 50]
    assert torch.equal(batch.features[0, :31], task.frontend(utterances[0].audio))
    assert not batch.features[0, 31:].any()
    assert (batch.frames, batch.padded_frames) == (81, 100)
    assert batch.labels.tolist() == task.tokenizer.encode("catbed")
    assert batch.utterance_seconds == (0.31, 0.5)


def test_feature_masks_of_the_utterance_are_applied():
    task, _ = example()
    plain = utterance(0.5, "cat")
    masked = replace(plain, augment_features=lambda features: np.full_like(features, 3.0))
    assert task.collate([plain, masked]).features[1].unique().tolist() == [3.0]


def test_audio_of_another_rate_is_a_mistake_of_the_caller():
    task, _ = example()
    with pytest.raises(AssertionError, match="8000 Hz"):
        task.collate([utterance(0.5, "cat", rate=8000)])


def test_transcripts_are_normalised_for_labels_and_kept_as_references():
    task, _ = example()
    batch = task.collate([utterance(0.5, "Happy, CAT!")])
    assert batch.references == ("Happy, CAT!",)
    assert task.tokenizer.decode(batch.labels.tolist()) == "happycat"  # no word of the training texts has a space


@pytest.mark.parametrize("seconds", [0.0, 0.02])
def test_an_impossible_utterance_is_infinite_in_training_and_nothing_in_evaluation(seconds):
    task, model = example()
    batch = task.collate([utterance(seconds, "happy")])
    assert task.loss(model.train(), batch).terms["ctc"].sum.isinf()
    assert task.loss(model.eval(), batch).terms["ctc"].sum == 0
    assert [hypothesis.text for hypothesis in task.predict(model, task.collate([utterance(0.0, "x")]))] == [""]


def test_judging_lets_pass_exactly_what_ctc_can_align():
    task, model = example()
    checks = task.checks()

    @settings(deadline=None, max_examples=40)
    @given(samples=st.integers(0, 20_000), text=st.text(alphabet="abdehpty", max_size=40))
    def check(samples, text):
        batch = task.collate([replace(utterance(0.1), audio=np.zeros(samples, np.float32), text=text)])
        finite = bool(task.loss(model.train(), batch).terms["ctc"].sum.isfinite())
        frames = checks.frames(np.array([samples / 16000]))
        assert frames == model.output_lengths(torch.tensor([samples]))
        assert finite == bool(frames[0] >= checks.frames_needed(text))

    check()


def test_frames_are_counted_for_the_shorter_of_two_roundings():
    """1599 samples of 32 kHz become 799 or 800 of 16 kHz, and 800 are the first that make two encoder frames."""
    task, _ = example()
    assert task.checks().frames(np.array([0, 1598, 1599, 1600]) / 32_000).tolist() == [0, 1, 1, 2]


@pytest.mark.parametrize(("text", "seconds", "reason"), [
    ("cat", 0.5, None), ("Cat!", 0.5, None), ("zebra", 0.5, "unknown_characters"), ("happy", 0.2, "ctc_infeasible"),
    ("happy", 0.24, None)])
def test_rows_are_judged_with_the_callables_of_the_task(text, seconds, reason):
    task, _ = example()
    frames = int(task.checks().frames(np.array([seconds]))[0])
    rejection = judge(Facts(id="x", text=text, seconds=seconds, frames=frames), task.checks())
    assert (rejection and rejection.reason) == reason


def test_a_label_that_repeats_needs_a_frame_more():
    task, _ = example()
    assert [task.checks().frames_needed(text) for text in ("cat", "happy", "ppp", "")] == [3, 6, 5, 0]


@pytest.mark.parametrize("decoder", ["greedy", "beam"])
def test_a_hypothesis_does_not_depend_on_the_batch(decoder):
    task, model = example()
    model.eval()
    utterances = words(5)
    together = task.predict(model, task.collate(utterances), decoder)
    alone = [task.predict(model, task.collate([one]), decoder)[0] for one in utterances]
    assert [hypothesis.text for hypothesis in together] == [hypothesis.text for hypothesis in alone]
    assert any(hypothesis.text for hypothesis in together)


def test_the_beam_gives_its_log_probability_and_is_no_worse_than_the_best_path():
    task, model = example()
    batch = task.collate(words(1))
    found = task.predict(model.eval(), batch, "beam")[0]
    nll = task.loss(model, replace(batch, labels=torch.tensor(task.tokenizer.encode(found.text)),
                                   label_lengths=torch.tensor([len(found.text)]))).terms["ctc"].sum.item()
    assert found.scores["log_probability"] <= -nll + 1e-3


def test_the_config_chooses_the_default_decoder():
    _, model = example()
    task = build(Config(decoder="beam"), model, Characters("abcdehpty"))
    assert task.decoders == ("beam", "greedy")
    assert "log_probability" in task.predict(model.eval(), task.collate(words(1)))[0].scores


def test_an_unknown_decoder_is_told_with_the_known_ones():
    task, model = example()
    with pytest.raises(UsageError, match="no 'beem'; did you mean 'beam'"):
        task.predict(model, task.collate(words(1)), "beem")


def test_the_tokenizer_is_trained_on_normalised_transcripts():
    assert tokenizer_for(Config(), tiny(), ["Ab, C!"]).alphabet == " abc"
    assert tokenizer_for(Config(normalizer="none"), tiny(), ["Ab, C!"]).alphabet == " !,ACb"
    twelve = Config(tokenizer=TokenizerConfig(kind="sentencepiece", vocabulary_size=12))
    pieces = tokenizer_for(twelve, tiny(), ["Ab, C!"] * 3)
    assert pieces.unknown("ab c") == ""
    with pytest.raises(ConfigError, match="no normaliser"):
        tokenizer_for(Config(normalizer="bassic"), tiny(), ["a"])


def test_what_a_worker_gets_has_no_weights_in_it():
    task, _ = example()
    there = pickle.loads(pickle.dumps(task.collate))
    utterances = words(3)
    assert torch.equal(there(utterances).features, task.collate(utterances).features)
    assert not list(there.frontend.parameters())
    assert len(pickle.dumps(task.collate)) < 1_000_000


@pytest.fixture
def one_thread():
    """Tensors so small are only slowed down by a second one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_a_few_updates_learn_three_clips_by_heart():
    task, model = example()
    utterances = words(3)
    batch = task.collate(utterances)
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=2e-2)
    for _ in range(80):
        optimizer.zero_grad()
        term = task.loss(model, batch).terms["ctc"]
        (term.sum / term.count).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    said = task.predict(model.eval(), batch)
    assert [hypothesis.text for hypothesis in said] == list(WORDS)
