import itertools
import json

import pytest
import torch
from huggingface_hub import constants
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils.rnn import pad_sequence

from auricle.core.decode import decode_block
from auricle.core.errors import ModelError
from auricle.core.frame import Block
from auricle.models.parts.components import resolve
from auricle.models.parts.folder import load_weights, save_model
from auricle.models.voxformer.config import Config
from auricle.models.voxformer.model import build
from tests.models.parts.encoders.small import GROUP, saved, theirs

VOCABULARY = 9
CONFORMER = {"kind": "conformer", "width": 16, "layers": 1, "heads": 2, "feedforward_width": 24,
             "convolution_kernel": 5, "dropout": 0.0}
ZIPFORMER = {"kind": "zipformer", "widths": [16, 20, 24, 20, 16], "layers": [1] * 5, "heads": [2] * 5,
             "feedforward_widths": [16] * 5, "convolution_kernels": [5] * 5, "query_head_width": 4,
             "value_head_width": 4, "position_head_width": 2, "position_width": 6, "dropout": 0.0}
LOGMEL = {"kind": "logmel", "n_mels": 20, "channels": 4}
FRONT_ENDS = {
    "logmel": LOGMEL, "wave": {"kind": "wave", "encoder": {"kind": "wavlm", "config": GROUP}, "dropout": 0.0},
    "features": {"kind": "features", "width": 3, "normalize": "none", "deltas": 1, "channels": 4}}
CASES = [("logmel", CONFORMER), ("wave", CONFORMER), ("features", CONFORMER), ("logmel", ZIPFORMER)]
IDS = [f"{front_end}-{encoder['kind']}" for front_end, encoder in CASES]
every_kind = pytest.mark.parametrize(("front_end", "encoder"), CASES, ids=IDS)
streamable = pytest.mark.parametrize(("front_end", "encoder"), [CASES[0], *CASES[2:]], ids=[IDS[0], *IDS[2:]])


def tiny(**changes) -> Config:
    """What tests/contracts/test_models.py builds."""
    decoder = {"layers": 1, "heads": 2, "feedforward_width": 24, "dropout": 0.0}
    return decode_block("models", {"kind": "voxformer", "frontend": LOGMEL, "encoder": CONFORMER, "decoder": decoder,
                                   **changes})


def built(front_end="logmel", encoder=CONFORMER, dtype=torch.float64, **changes):
    torch.manual_seed(0)
    return build(tiny(frontend=FRONT_ENDS[front_end], encoder=encoder, **changes), VOCABULARY).to(dtype).eval()


def heard(model, samples, dtype=torch.float64):
    """Features of noise of so many samples each, as a front end in a worker makes them."""
    generator = torch.Generator().manual_seed(sum(samples))
    of_features = model.config.frontend.kind == "features"
    audio = [torch.randn(*((one, 3) if of_features else (one,)), generator=generator) for one in samples]
    return [model.frontend(one).to(dtype) for one in audio]


def lengths_for(model):
    """Audio of some frames, of one, of none, in samples of the front end."""
    return (40, 23, 1, 0) if model.config.frontend.kind == "features" else (6000, 3700, 500, 0)


def batch(features, filler=float("nan")):
    lengths = torch.tensor([len(one) for one in features])
    return pad_sequence(features, batch_first=True, padding_value=filler), lengths


def tokens_of(counts):
    """(B, U): the end symbol, labels, and any padding."""
    rows = [torch.tensor([VOCABULARY, *(number % VOCABULARY for number in range(count))]) for count in counts]
    return pad_sequence(rows, batch_first=True, padding_value=3)


@every_kind
def test_output_lengths_are_the_real_ones(front_end, encoder):
    model = built(front_end, encoder)

    @settings(deadline=None, max_examples=15)
    @given(samples=st.lists(st.integers(0, lengths_for(model)[0]), min_size=1, max_size=3))
    def check(samples):
        encoded, lengths = model.encode(*batch(heard(model, samples)))
        assert lengths.tolist() == model.output_lengths(torch.tensor(samples)).tolist()
        assert encoded.shape[:2] == (len(samples), max(1, *lengths.tolist()))

    check()


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@every_kind
def test_an_utterance_alone_is_recognised_as_in_a_ragged_batch(front_end, encoder, dtype, tolerance, train):
    model = built(front_end, encoder, dtype).train(train)
    features = heard(model, lengths_for(model), dtype)
    counts = (3, 1, 0, 2)
    together = model(*batch(features), tokens_of(counts))
    assert all(logits.isfinite().all() for logits in (together.ctc_logits, together.decoder_logits))
    for row, (one, count) in enumerate(zip(features, counts, strict=True)):
        alone = model(*batch([one]), tokens_of([count]))
        frames = together.lengths[row]
        torch.testing.assert_close(together.ctc_logits[row, :frames], alone.ctc_logits[0, :frames], atol=tolerance,
                                   rtol=0)
        torch.testing.assert_close(together.decoder_logits[row, : count + 1], alone.decoder_logits[0], atol=tolerance,
                                   rtol=0)


@pytest.mark.parametrize("shape", [(0, 40, 0), (0, 0, 3), (1, 0, 1), (2, 40, 3)])
@pytest.mark.parametrize("spelt", [False, True])
@every_kind
def test_nothing_passes_through_and_gives_every_parameter_zeros(front_end, encoder, spelt, shape):
    model = built(front_end, encoder, torch.float32).train()
    utterances, frames, tokens = shape
    features = torch.full((utterances, frames, model.frontend.n_mels), float("nan"))
    lengths = torch.zeros(utterances, dtype=torch.long)
    spelling = torch.full((utterances, tokens), VOCABULARY) if spelt else None
    *logits, = (one for one in model(features, lengths, spelling) if one.is_floating_point())
    assert [len(one) for one in logits] == [utterances] * (1 + spelt)
    assert [len(one) for one in model.encode(features, lengths)] == [utterances] * 2
    sum(one[:0].sum() + 0 * one.sum() for one in logits).backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


@every_kind
def test_what_is_heard_and_spelt_trains_every_parameter(front_end, encoder):
    model = built(front_end, encoder).train()
    said = model(*batch(heard(model, lengths_for(model)[:2])), tokens_of([3, 2]))
    (said.ctc_logits[0].square().sum() + said.decoder_logits.square().sum()).backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_both_heads_read_what_the_encoder_gives():
    model, tokens = built(), tokens_of([3, 1])
    features = batch(heard(model, (6000, 3000)))
    said, (encoded, lengths) = model(*features, tokens), model.encode(*features)
    assert torch.equal(said.ctc_logits, model.ctc_head(encoded))
    assert torch.equal(said.decoder_logits, model.decoder(tokens, encoded, lengths))
    assert torch.equal(model(*features)[0], said.ctc_logits)


def test_without_tokens_training_gives_a_decoder_that_learns_zeros_and_changes_no_label():
    model = built().train()
    features = batch(heard(model, (6000,)))
    logits, _ = model(*features)
    assert torch.equal(logits, model.eval()(*features)[0])
    logits.square().sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.decoder.parameters())
    model.train().zero_grad()
    model.decoder.requires_grad_(False)
    model(*features)[0].sum().backward()
    assert all(p.grad is None for p in model.decoder.parameters())


@every_kind
def test_components_are_named_after_what_they_do(front_end, encoder):
    model = built(front_end, encoder)
    parts = ["frontend"] if front_end == "wave" else []
    assert list(model.components()) == [*parts, "adapter", "encoder", "decoder", "ctc_head"]
    found = resolve(model, [*model.components(), "encoder.top(2)", "decoder.top(1)"])
    assert {p for group in found.values() for _, p in group} == set(model.parameters())
    assert {name.split(".")[2] for name, _ in found["encoder.top(2)"]} == {"3", "4"}


def test_the_top_layers_of_a_pretrained_front_end_can_be_named():
    found = resolve(built("wave"), ["frontend.top(2)"])["frontend.top(2)"]
    assert {name.rpartition("layers.")[2].split(".")[0] for name, _ in found} == {"1", "2"}


def test_tensors_with_a_row_a_label_are_named():
    model = built()
    rows = {name for name, p in model.named_parameters() if p.shape[0] == VOCABULARY + 1}
    assert rows == set(model.label_tensors())


@streamable
@settings(deadline=None, max_examples=8)
@given(frames=st.integers(1, 70), chunk=st.sampled_from([4, 8, 16]))
def test_a_stream_gives_what_chunks_at_once_give(front_end, encoder, frames, chunk):
    model = built(front_end, encoder)
    features = torch.randn(1, frames, model.frontend.n_mels, dtype=torch.float64)
    expected, _ = model.encode(features, torch.tensor([frames]), chunk)
    memory, step = model.stream(), model.chunk_features(chunk)
    pieces = [model.encode_chunk(features[:, first : first + step], memory) for first in range(0, frames + 1, step)]
    torch.testing.assert_close(torch.cat(pieces, 1), expected, atol=1e-10, rtol=0)


@streamable
def test_a_chunk_as_long_as_you_like_is_the_whole_utterance(front_end, encoder):
    model = built(front_end, encoder)
    inputs = batch(heard(model, lengths_for(model)))
    whole, chunked = model.encode(*inputs), model.encode(*inputs, 1_000_000_000)
    for row, length in enumerate(whole[1]):
        torch.testing.assert_close(chunked[0][row, :length], whole[0][row, :length], atol=1e-10, rtol=0)


@pytest.mark.parametrize(("frontend", "said"), [
    (FRONT_ENDS["wave"], "kind wave"), ({**LOGMEL, "style": "whisper"}, "style whisper"),
    ({**LOGMEL, "normalize": "mean"}, "normalize mean"),
    ({**FRONT_ENDS["features"], "normalize": "mean_variance"}, "normalize mean_variance")])
def test_what_looks_at_the_whole_utterance_has_no_stream(frontend, said):
    with pytest.raises(ModelError, match=f"{said} looks at the whole utterance"):
        build(tiny(frontend=frontend), VOCABULARY).stream()


def test_a_pretrained_front_end_refuses_chunks():
    model = built("wave")
    with pytest.raises(ModelError, match="attends to the whole utterance"):
        model.encode(*batch(heard(model, (6000,))), 8)


def test_training_for_streams_draws_chunks_and_nothing_else_does():
    model = built(streaming={"chunk_seconds": [0.08, 0.16], "whole": 0.5})
    inputs = batch(heard(model, (12_000,)))
    known = [model.encode(*inputs, chunk)[0] for chunk in (None, 4, 8)]
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(known, 2))
    expected = [model.ctc_head(encoded) for encoded in known]
    assert torch.equal(model(*inputs)[0], expected[0])
    model.train()
    seen = []
    for seed in range(60):
        torch.manual_seed(seed)
        logits = model(*inputs)[0]
        seen.append(next(number for number, one in enumerate(expected) if torch.equal(logits, one)))
        torch.manual_seed(seed)
        assert torch.equal(model(*inputs)[0], logits)
    assert 20 <= seen.count(0) <= 40
    assert min(seen.count(1), seen.count(2)) >= 8
    assert torch.equal(built().train()(*inputs)[0], expected[0])


def test_it_trains_under_autocast():
    model = built(dtype=torch.float32).train()
    with torch.autocast("cpu", torch.bfloat16):
        said = model(*batch(heard(model, (6000, 3000), torch.float32)), tokens_of([3, 1]))
    (said.ctc_logits[0].float().square().sum() + said.decoder_logits.float().square().sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def saved_folder(model, folder, config, **parts):
    folder.mkdir()
    save_model(folder, model, model_config=config, task_config=Block(kind="none"), vocabulary=VOCABULARY, **parts)
    return decode_block("models", json.loads((folder / "config.json").read_text())["model"])


def pretrained(name):
    return {"kind": "wave", "encoder": {"kind": "wavlm", "pretrained": str(name)}}


def test_a_folder_that_holds_the_front_end_needs_its_checkpoint_no_more(tmp_path):
    saved(theirs("wavlm", GROUP), tmp_path / "theirs", do_normalize=True)
    model = build(tiny(frontend=pretrained(tmp_path / "theirs")), VOCABULARY).eval()
    assert model.hub_parts == {}
    config = saved_folder(model, tmp_path / "ours", model.saved_config(set()))
    (tmp_path / "theirs").rename(tmp_path / "gone")
    again = build(config, VOCABULARY).eval()
    load_weights(again, tmp_path / "ours")
    inputs = batch(heard(model, (6000, 3000), torch.float32))
    assert again.frontend.normalize
    assert torch.equal(again(*inputs)[0], model(*inputs)[0])


def test_a_frozen_front_end_of_the_hub_is_named_and_not_stored(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    home, commit = tmp_path / "cache" / "models--lab--ears", "0123456789abcdef0123456789abcdef01234567"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(commit)
    saved(theirs("wavlm", GROUP), home / "snapshots" / commit, do_normalize=False)
    model = build(tiny(frontend=pretrained("lab/ears")), VOCABULARY)
    assert {(name, part.hub, part.revision) for name, part in model.hub_parts.items()} == {
        ("frontend", "lab/ears", commit)}
    config = saved_folder(model, tmp_path / "ours", model.saved_config({"frontend"}), parts=model.hub_parts)
    assert (config.frontend.encoder.pretrained, config.frontend.encoder.revision) == ("lab/ears", commit)
    assert {path.stem for path in (tmp_path / "ours").glob("*.safetensors")} == {
        "adapter", "encoder", "decoder", "ctc_head"}
    again = build(config, VOCABULARY)
    load_weights(again, tmp_path / "ours")
    assert again.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    with torch.no_grad():
        next(again.front_end.encoder.parameters()).add_(1.0)
    with pytest.raises(ModelError, match="have the hash"):
        load_weights(again, tmp_path / "ours")


def test_a_model_without_a_pretrained_part_is_what_its_config_says():
    assert built().saved_config(set()) == built().config
