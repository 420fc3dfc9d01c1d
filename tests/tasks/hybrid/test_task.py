import pickle
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from auricle.core.errors import ConfigError, UsageError
from auricle.data.judge import Facts, judge
from auricle.data.tokenizers import Characters
from auricle.models.conformer.model import build as build_conformer
from auricle.models.voxformer.config import Config as VoxFormer
from auricle.models.voxformer.config import ConformerConfig, DecoderConfig, LogMelConfig
from auricle.models.voxformer.model import build as build_model
from auricle.tasks.ctc.config import Config as CtcConfig
from auricle.tasks.ctc.task import build as build_ctc
from auricle.tasks.hybrid.config import Config, WeightSchedule
from auricle.tasks.hybrid.task import build, smoothing_floor, tokenizer_for
from tests.models.conformer.test_model import tiny as tiny_conformer
from tests.utterances import WORDS, utterance, words


def tiny() -> VoxFormer:
    return VoxFormer(
        frontend=LogMelConfig(n_mels=20, channels=4),
        encoder=ConformerConfig(width=16, layers=1, heads=2, feedforward_width=24, convolution_kernel=5, dropout=0.0),
        decoder=DecoderConfig(layers=1, heads=2, feedforward_width=24, dropout=0.0))


def example(config: Config | None = None):
    """What tests/contracts/test_tasks.py works with: (task, model)."""
    torch.manual_seed(0)
    config = config or Config(beam_size=3, max_new_tokens=12)
    tokenizer = tokenizer_for(config, tiny(), WORDS)
    model = build_model(tiny(), tokenizer.size)
    return build(config, model, tokenizer), model


def in_double(batch):
    return replace(batch, features=batch.features.double())


def objective(task, loss, steps=0):
    """As train/loop.py weighs terms."""
    weights = task.weights(steps)
    return sum(weights[name] * term.sum / max(term.count, 1.0) for name, term in loss.terms.items())


def gradient(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def spelt_by_hand(model, task, one):
    """-log p of one utterance alone, label by label, and the mean over classes of -log p summed up."""
    features = task.frontend(one.audio).unsqueeze(0).double()
    labels = task.tokenizer.encode(one.text)
    encoded, lengths = model.encode(features, torch.tensor([features.shape[1]]))
    log_probs = model.decoder(torch.tensor([[task.blank, *labels]]), encoded, lengths).log_softmax(-1)[0]
    gold = -sum(log_probs[place, label] for place, label in enumerate([*labels, task.blank]))
    return gold, -log_probs.mean(-1).sum()


def test_both_terms_are_sums_over_utterances_of_what_each_is_alone_with_counts_of_their_own():
    task, model = example(Config(label_smoothing_factor=0.1))
    model.double()
    utterances = words(4)
    terms = task.loss(model, in_double(task.collate(utterances))).terms
    labels = sum(len(one.text) for one in utterances)
    assert {name: term.count for name, term in terms.items()} == {
        "ctc": labels, "attention": labels + 4, "label_smoothing": labels + 4}
    gold, uniform = (sum(part.item() for part in parts) for parts in
                     zip(*(spelt_by_hand(model, task, one) for one in utterances), strict=True))
    assert terms["attention"].sum.item() == pytest.approx(gold, rel=1e-9)
    assert terms["label_smoothing"].sum.item() == pytest.approx(uniform, rel=1e-9)
    aligned = build_ctc(CtcConfig(), model, task.tokenizer)
    batch = in_double(aligned.collate(utterances))
    assert terms["ctc"].sum.item() == pytest.approx(aligned.loss(model, batch).terms["ctc"].sum.item(), rel=1e-9)


def test_with_all_weight_on_ctc_the_gradient_is_that_of_the_ctc_task():
    task, model = example(Config(ctc_weight=1.0, label_smoothing_factor=0.1))
    model.double()
    found = gradient(model, objective(task, task.loss(model, in_double(task.collate(words(3))))))
    aligned = build_ctc(CtcConfig(), model, task.tokenizer)
    term = aligned.loss(model, in_double(aligned.collate(words(3)))).terms["ctc"]
    expected = gradient(model, term.sum / term.count)
    assert all(torch.allclose(found[name], expected[name], atol=1e-10) for name in found)
    decoder = {name for name in found if name.startswith("decoder.")}
    assert decoder
    assert not any(found[name].any() for name in decoder)
    assert found["ctc_head.weight"].any()


def test_with_no_weight_on_ctc_the_gradient_is_that_of_the_decoder_alone():
    task, model = example(Config(ctc_weight=0.0))
    model.double()
    utterances = words(3)
    found = gradient(model, objective(task, task.loss(model, in_double(task.collate(utterances)))))
    alone = sum(spelt_by_hand(model, task, one)[0] for one in utterances)
    count = sum(len(one.text) + 1 for one in utterances)
    model.zero_grad()
    (alone / count).backward()
    for name, parameter in model.named_parameters():
        if name.startswith("ctc_head."):
            assert not found[name].any()
        else:
            assert torch.allclose(found[name], parameter.grad, atol=1e-10), name


def test_what_ctc_cannot_align_matters_only_where_it_has_weight():
    long = utterance(0.2, "happybedcat" * 3)
    for weight, finite in ((0.3, False), (0.0, True), ({"start": 0.5, "end": 0.0, "steps": 9}, False)):
        task, model = example(Config.model_validate({"ctc_weight": weight}))
        loss = objective(task, task.loss(model.train(), task.collate([long])))
        assert bool(loss.isfinite()) == finite
        row = Facts(id="x", text=long.text, seconds=0.2, frames=10)
        assert (judge(row, task.checks()) is None) == finite
        assert task.loss(model.eval(), task.collate([long])).terms["ctc"].sum == 0


def test_a_weight_can_move_in_a_line_and_evaluations_use_its_end():
    config = Config(ctc_weight=WeightSchedule(start=0.8, end=0.3, steps=10), label_smoothing_factor=0.1)
    task, model = example(config)
    assert [task.weights(steps)["ctc"] for steps in (0, 1, 5, 10, 99)] == pytest.approx([0.8, 0.75, 0.55, 0.3, 0.3])
    for steps in (0, 4, 10):
        weights = task.weights(steps)
        assert sum(weights.values()) == pytest.approx(1.0)
        assert weights["label_smoothing"] == pytest.approx(0.1 * (1 - weights["ctc"]))
    batch = task.collate(words(2))
    trained, evaluated = (task.loss(model.train(on), batch).terms for on in (True, False))
    assert {name: term.weight for name, term in trained.items()} == task.weights(10)
    assert {name: term.weight for name, term in evaluated.items()} == pytest.approx({"ctc": 0.3, "attention": 0.7})


def test_label_smoothing_is_torch_s_own_and_none_of_the_evaluations():
    task, model = example(Config(ctc_weight=0.0, label_smoothing_factor=0.1))
    batch = task.collate(words(3))
    found = objective(task, task.loss(model.train(), batch))
    logits = model(batch.features, batch.feature_lengths, batch.tokens).decoder_logits
    ends = torch.full_like(batch.tokens[:, :1], task.blank)
    targets = torch.cat([batch.tokens[:, 1:], ends], 1)
    ignored = torch.arange(targets.shape[1]) > batch.label_lengths.unsqueeze(1)
    expected = functional.cross_entropy(logits.flatten(0, 1), targets.masked_fill(ignored, -100).flatten(),
                                        label_smoothing=0.1)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    assert task.loss(model.eval(), batch).terms.keys() == {"ctc", "attention"}


@pytest.mark.parametrize(("factor", "classes"), [(0.1, 2000), (0.1, 30), (0.5, 3), (1.0, 4), (0.0, 5)])
def test_the_floor_of_the_smoothed_loss_is_the_best_that_an_optimiser_can_attain(factor, classes):
    logits = torch.zeros(1, classes, dtype=torch.double, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], lr=1.0, max_iter=500, line_search_fn="strong_wolfe",
                                  tolerance_grad=1e-12, tolerance_change=1e-14)

    def closure():
        optimizer.zero_grad()
        loss = functional.cross_entropy(logits, torch.tensor([1]), label_smoothing=factor)
        loss.backward()
        return loss

    optimizer.step(closure)
    best = closure().item()
    assert best == pytest.approx(smoothing_floor(factor, classes), abs=1e-5)
    assert best >= smoothing_floor(factor, classes) - 1e-9


def test_the_floors_are_those_of_what_is_trained_and_there_are_none_without_smoothing():
    task, _ = example(Config(label_smoothing_factor=0.1, ctc_weight=0.4))
    assert task.floors == pytest.approx({"attention_smoothed": smoothing_floor(0.1, task.tokenizer.size + 1),
                                         "loss": 0.6 * smoothing_floor(0.1, task.tokenizer.size + 1)})
    assert example()[0].floors == {}
    assert smoothing_floor(0.1, 2000) == pytest.approx(1.085, abs=5e-4), "that of the original VoxFormer"


def test_the_decoder_s_tokens_begin_with_the_end_symbol_and_go_on_to_what_is_learned():
    task, _ = example()
    batch = task.collate([utterance(0.3, "cat"), utterance(0.5, "happy")])
    cat, happy, end = *map(task.tokenizer.encode, ("cat", "happy")), task.tokenizer.size
    assert batch.tokens.tolist() == [[end, *cat, end, end], [end, *happy]]
    assert task.collate([]).tokens.shape == (0, 1)


def test_padding_and_company_change_no_term():
    task, model = example()
    model.double().eval()
    short, long = utterance(0.3, "cat"), utterance(0.9, "happy")
    together = task.loss(model, in_double(task.collate([short, long]))).terms
    alone = [task.loss(model, in_double(task.collate([one]))).terms for one in (short, long)]
    for name, term in together.items():
        assert term.sum.item() == pytest.approx(sum(one[name].sum.item() for one in alone), rel=1e-10)


def test_the_loss_is_at_least_fp32_whatever_the_logits_are():
    task, model = example()
    batch = task.collate(words(2))
    loss = task.loss(model, batch).terms
    with torch.autocast("cpu", torch.bfloat16):
        rough = task.loss(model, batch).terms
    for name, term in rough.items():
        assert term.sum.dtype == torch.float32
        assert term.sum.item() == pytest.approx(loss[name].sum.item(), rel=0.02)


def test_judging_lets_pass_exactly_what_ctc_can_align():
    task, model = example()
    checks = task.checks()

    @settings(deadline=None, max_examples=25)
    @given(samples=st.integers(0, 9_000), text=st.text(alphabet="abdehpty", max_size=30))
    def check(samples, text):
        batch = task.collate([replace(utterance(0.1), audio=np.zeros(samples, np.float32), text=text)])
        frames = checks.frames(np.array([samples / 16000]))
        assert frames == model.output_lengths(torch.tensor([samples]))
        finite = bool(task.loss(model.train(), batch).terms["ctc"].sum.isfinite())
        assert finite == bool(frames[0] >= checks.frames_needed(text))

    check()


def test_what_a_worker_gets_has_no_weights_in_it():
    task, _ = example()
    there = pickle.loads(pickle.dumps(task.collate))
    assert torch.equal(there(words(2)).features, task.collate(words(2)).features)
    assert len(pickle.dumps(task.collate)) < 1_000_000


def test_a_model_without_a_decoder_is_refused_in_a_sentence():
    with pytest.raises(ConfigError, match="'hybrid' needs a model with a CTC head and an attention decoder"):
        build(Config(), build_conformer(tiny_conformer(), 5), Characters("abcde"))


@pytest.fixture
def one_thread():
    """Tensors so small are only slowed down by a second one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


EVERY = ("joint", "attention_beam", "attention", "ctc_beam", "ctc")


@pytest.mark.parametrize("decoder", EVERY)
def test_a_hypothesis_does_not_depend_on_the_batch(decoder):
    task, model = example()
    model.double().eval()
    utterances = words(5)
    together = task.predict(model, in_double(task.collate(utterances)), decoder)
    alone = [task.predict(model, in_double(task.collate([one])), decoder)[0] for one in utterances]
    assert [hypothesis.text for hypothesis in together] == [hypothesis.text for hypothesis in alone]
    assert any(hypothesis.text for hypothesis in together)
    for one, other in zip(together, alone, strict=True):
        assert one.scores == pytest.approx(other.scores, abs=1e-8)


def with_end_at(model, logit):
    """The decoder's end symbol has that logit, whatever was heard."""
    end = torch.tensor([model.decoder.end])
    model.decoder.project_out.register_forward_hook(lambda module, inputs, out: out.index_fill(-1, end, logit))


def test_scores_say_how_likely_a_hypothesis_is():
    task, model = example()
    batch = task.collate(words(2))
    scores = {decoder: task.predict(model.eval(), batch, decoder)[0].scores for decoder in EVERY}
    assert {decoder: set(one) for decoder, one in scores.items()} == {
        "joint": {"score", "cut"}, "attention_beam": {"score", "cut"}, "attention": {"log_probability", "cut"},
        "ctc_beam": {"log_probability"}, "ctc": set()}
    assert all(value < 0 for one in scores.values() for name, value in one.items() if name != "cut")


@pytest.mark.parametrize("decoder", ["joint", "attention_beam", "attention"])
def test_a_hypothesis_that_never_ends_is_cut_at_the_limit_and_says_so(decoder):
    clip = utterance(0.3, "cat")
    for limit in (2,) if decoder == "joint" else (2, None):  # CTC ends what has more labels than there are frames
        task, model = example(Config(max_new_tokens=limit, beam_size=2))
        frames = int(model.output_lengths(torch.tensor(len(clip.audio))))
        with_end_at(model, -1e9)
        [said] = task.predict(model.eval(), task.collate([clip]), decoder)
        assert said.scores["cut"] == 1.0
        assert len(said.text) == limit if limit else len(said.text) <= frames + 1
    with_end_at(model, 1e9)
    [said] = task.predict(model, task.collate([clip]), decoder)
    assert said.scores["cut"] == 0.0


def test_the_audio_is_encoded_once_however_many_decoders_there_are():
    task, model = example()
    encoded, encode = [], model.encode
    model.encode = lambda *what: encoded.append(len(what[0])) or encode(*what)
    batch = task.collate(words(2))
    task.predict(model.eval(), batch)
    assert encoded == [2]
    once = task.encode(model, batch)
    said = {decoder: task.decode(model, batch, once, decoder) for decoder in EVERY}
    assert encoded == [2, 2]
    assert all(said[decoder] == task.predict(model, batch, decoder) for decoder in EVERY)


def test_chunks_of_a_stream_are_what_the_encoder_sees_where_the_config_says_so():
    task, model = example(Config(chunk_seconds=0.32))
    seen, encode = [], model.encode
    model.encode = lambda features, lengths, chunk=None: seen.append(chunk) or encode(features, lengths, chunk)
    task.predict(model.eval(), task.collate(words(2)))
    assert seen == [16]
    assert example()[0].chunk is None
    with pytest.raises(ValueError, match=r"a chunk of 0\.3 s; expected a multiple of 0\.08 s"):
        Config(chunk_seconds=0.3)


def test_the_config_chooses_the_default_decoder_and_an_unknown_one_is_told_with_the_known_ones():
    task, model = example(Config(decoder="ctc_beam"))
    assert task.decoders == ("ctc_beam", "joint", "attention_beam", "attention", "ctc")
    with pytest.raises(UsageError, match="no 'jiont'; did you mean 'joint'"):
        task.predict(model, task.collate(words(1)), "jiont")


def test_joint_decoding_with_no_weight_on_ctc_is_the_attention_beam_and_its_weight_moves_the_scores():
    batch = None
    scores = []
    for weight in (0.0, 0.3, 1.0):
        task, model = example(Config(joint_ctc_weight=weight, beam_size=3))
        batch = task.collate(words(3))
        scores.append([one.scores["score"] for one in task.predict(model.eval(), batch, "joint")])
        if weight == 0.0:
            attention = task.predict(model, batch, "attention_beam")
            assert task.predict(model, batch, "joint") == attention
    assert scores[0] != scores[1] != scores[2]


@pytest.mark.usefixtures("one_thread")
def test_a_few_updates_learn_three_clips_by_heart_for_every_decoder():
    task, model = example(Config(ctc_weight=0.7, beam_size=3))
    batch = task.collate(words(3))
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=5e-3)
    for _ in range(150):
        optimizer.zero_grad()
        objective(task, task.loss(model, batch)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    for decoder in EVERY:
        said = task.predict(model.eval(), batch, decoder)
        assert [hypothesis.text for hypothesis in said] == list(WORDS), decoder
        assert not any(one.scores.get("cut") for one in said), decoder


@pytest.mark.parametrize("decoder", ["joint", "attention_beam", "ctc_beam"])
def test_every_beam_prefers_hotwords(decoder):
    task, model = example(Config(beam_size=4, max_new_tokens=12))
    config = task.config.model_copy(update={"hotwords": ["Happy!"], "hotword_bonus": 50.0})
    biased = build(config, model, task.tokenizer)
    batch = task.collate(words(2))
    assert [one.text for one in biased.predict(model.eval(), batch, decoder)] != [
        one.text for one in task.predict(model, batch, decoder)]
    assert "happy" in biased.predict(model, batch, decoder)[0].text
    for plain in ("ctc", "attention"):
        assert biased.predict(model, batch, plain) == task.predict(model, batch, plain)
    assert set(task.beams) == {"joint", "attention_beam", "ctc_beam"}


@pytest.mark.parametrize(("phrase", "said"), [("zebra", "'zebra' has 'zr', which no label spells"),
                                              ("?!", "nothing is left of '?!'")])
def test_hotwords_that_cannot_be_spelt_are_refused_by_name(phrase, said):
    with pytest.raises(ConfigError, match=said.replace("?", r"\?")):
        example(Config(hotwords=["happy", phrase]))


@pytest.mark.parametrize("decoder", ["joint", "attention_beam", "attention"])
def test_an_apple_gpu_is_told_that_it_lacks_double_precision(decoder):
    task, model = example()
    with pytest.raises(UsageError, match=f"'{decoder}' computes in double precision.*Set the device to cpu"):
        task.spelled(model, SimpleNamespace(device=torch.device("mps")), None, decoder)
