import math

import pytest
import torch

from auricle.core.errors import ConfigError, ModelError, UsageError
from auricle.data.tokenizers import Characters, SentencePiece
from auricle.models.parts.folder import read_config
from auricle.models.parts.weights import named_tensors
from auricle.tasks.ctc.config import Config
from auricle.tasks.hybrid import config as hybrid
from auricle.tasks.parts import vocabulary
from auricle.tasks.parts.assembly import assemble, load
from auricle.tasks.parts.vocabulary import extend, extended_rows, refuse_other_labels, refuse_other_tokenizer
from tests.models.conformer.test_model import tiny
from tests.models.voxformer.test_model import tiny as voxformer
from tests.utterances import utterance, words

TEXTS = ["bed cat happy", "a dog digs deep", "the happy category"]
TOKENIZERS = [Characters.train(TEXTS), SentencePiece.train(TEXTS * 5, 40)]
BOTH = pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=["characters", "sentencepiece"])
WORDS = ["happy dog", "Category", "jump"]


def assembled(tokenizer, seed=1):
    torch.manual_seed(seed)
    config = Config(tokenizer={"kind": "characters"}, normalizer="basic")
    made = assemble(tiny(), config, tokenizer)
    made.model.double().eval()
    return made


def frames(assembly, utterances):
    batch = assembly.task.collate(utterances)
    return assembly.model(batch.features.double(), batch.feature_lengths)


@BOTH
def test_old_logits_stay_and_new_ones_are_means(tokenizer):
    old = assembled(tokenizer)
    new = extend(old, WORDS)
    new.model.double()
    size, more = tokenizer.size, new.vocabulary - tokenizer.size
    assert new.vocabulary == new.tokenizer.size == new.task.blank
    assert more >= 3
    (before, lengths), (after, same) = frames(old, words(6)), frames(new, words(6))
    assert torch.equal(lengths, same)
    torch.testing.assert_close(after[..., [*range(size), size + more]], before, atol=1e-6, rtol=0)
    spelled = tokenizer.encode("category")
    torch.testing.assert_close(after[..., new.tokenizer.encode("category")[0]], before[..., spelled].mean(-1),
                               atol=1e-6, rtol=0)


@BOTH
def test_greedy_decoding_says_the_same_of_any_audio(tokenizer):
    old = assembled(tokenizer)
    old.model.float()
    with torch.no_grad():
        old.model.ctc_head.weight.mul_(8)  # so that more than one class is said
    new = extend(old, WORDS)
    said = [[h.text for h in one.task.predict(one.model, one.task.collate(words(9)), "greedy")] for one in (old, new)]
    assert said[0] == said[1]
    assert any(said[0])


@BOTH
def test_an_old_text_loses_no_more_than_the_new_classes_take(tokenizer):
    old = assembled(tokenizer)
    new = extend(old, WORDS)
    new.model.double()
    spoken = [utterance(1.0 + 0.1 * number, text) for number, text in enumerate(("bed cat", "the digs", "a cat"))]
    losses, total = [], 0
    for one in (old, new):
        batch = one.task.collate(spoken)
        logits, lengths = one.model(batch.features.double(), batch.feature_lengths)
        losses.append(torch.nn.functional.ctc_loss(logits.log_softmax(-1).transpose(0, 1), batch.labels, lengths,
                                                   batch.label_lengths, blank=one.task.blank, reduction="sum").item())
        total = int(lengths.sum())
    assert losses[0] < losses[1] <= losses[0] + total * math.log(1 + new.vocabulary - old.vocabulary)


def test_all_other_weights_are_the_same_and_the_model_goes_on_learning(tmp_path):
    old = assembled(TOKENIZERS[0])
    old.model.float()
    new = extend(old, WORDS)
    ours, theirs = named_tensors(old.model), named_tensors(new.model)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours if name not in old.model.label_tensors())
    new.save(tmp_path)
    again = load(tmp_path)
    assert again.tokenizer == new.tokenizer
    batch = again.task.collate([utterance(1.5, "happy jump")])
    assert sorted(batch.labels.tolist())[-2:] == sorted(again.tokenizer.encode("happy")
                                                        + again.tokenizer.encode("jump"))
    again.model.train()
    again.task.loss(again.model, batch).terms["ctc"].sum.backward()
    assert again.model.ctc_head.weight.grad[again.tokenizer.encode("jump")].abs().sum() > 0


def test_a_new_row_is_the_mean_of_earlier_ones_and_the_last_stays_last():
    rows = torch.arange(8.0).reshape(4, 2)
    found = extended_rows(rows, [(0, 2), (1, 3), (0, 0, 1)])
    expected = [[0, 1], [2, 3], [4, 5], [2, 3], [2, 3], [2 / 3, 5 / 3], [6, 7]]
    torch.testing.assert_close(found, torch.tensor(expected))
    torch.testing.assert_close(extended_rows(torch.tensor([1.0, 5.0, 9.0]), [(0, 1)]), torch.tensor([1.0, 5, 3, 9]))


@pytest.mark.parametrize(("words_", "sentence"), [(["a b", "d"], "no new word among 3"), ([], "no new word among 0")])
def test_words_that_are_labels_already_are_told(words_, sentence):
    with pytest.raises(UsageError, match=sentence):
        extend(assembled(TOKENIZERS[0]), words_)


def test_a_model_without_labels_of_its_own_cannot_be_extended(monkeypatch):
    old = assembled(TOKENIZERS[0])
    monkeypatch.delattr(type(old.model), "label_tensors")
    with pytest.raises(UsageError, match="model 'conformer': its vocabulary cannot be extended"):
        extend(old, WORDS)


def test_weights_of_another_vocabulary_are_a_named_mismatch(tmp_path):
    old = assembled(TOKENIZERS[0])
    old.save(tmp_path)
    refuse_other_labels(old, tmp_path)
    others = [Characters("abc"), Characters("".join(sorted(TOKENIZERS[0].alphabet[:-1] + "ß")))]
    for other in others:
        with pytest.raises(ModelError, match=rf"has a vocabulary of {old.vocabulary} labels, and this experiment "
                                             rf"another one of {other.size}; .*{vocabulary.VERB} "):
            refuse_other_labels(assembled(other), tmp_path)


def test_a_tokenizer_that_the_model_does_not_have_is_not_passed_over(tmp_path):
    old = assembled(TOKENIZERS[0])
    old.save(tmp_path)
    saved = read_config(tmp_path)
    refuse_other_tokenizer(Config(normalizer="none", decoder="beam"), tmp_path, saved)
    asked = Config(tokenizer={"kind": "sentencepiece", "vocabulary_size": 2000})
    with pytest.raises(ConfigError, match=r"asks for kind sentencepiece, vocabulary_size 2000, .* of \d+ labels; .*"
                                          r"\(kind characters\)"):
        refuse_other_tokenizer(asked, tmp_path, saved)


@BOTH
def test_a_decoder_spells_old_texts_as_before_and_new_words_like_their_spelling(tokenizer):
    torch.manual_seed(2)
    task = hybrid.Config(tokenizer={"kind": "characters"}, max_new_tokens=12)
    old = assemble(voxformer(), task, tokenizer)
    old.model.double().eval()
    new = extend(old, WORDS)
    new.model.double()
    size, more = old.vocabulary, new.vocabulary - old.vocabulary
    memory, lengths = torch.randn(2, 30, 16, dtype=torch.float64), torch.tensor([30, 21])
    spelled = torch.tensor([tokenizer.encode("cat bed"), tokenizer.encode("cat bed")])
    begins = torch.full((2, 1), size)
    before = old.model.decoder(torch.cat([begins, spelled], 1), memory, lengths)
    after = new.model.decoder(torch.cat([begins + more, spelled], 1), memory, lengths)
    torch.testing.assert_close(after[..., [*range(size), size + more]], before, atol=1e-6, rtol=0)
    embedding, (jump,) = new.model.decoder.embedding.weight, new.tokenizer.encode("category")
    torch.testing.assert_close(embedding[jump], embedding[tokenizer.encode("category")].mean(0), atol=1e-6, rtol=0)
    for decoder in ("ctc", "attention"):
        said = [[h.text for h in one.task.predict(one.model.float(), one.task.collate(words(3)), decoder)]
                for one in (old, new)]
        assert said[0] == said[1]
