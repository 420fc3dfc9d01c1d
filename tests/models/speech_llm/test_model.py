import json
import pickle

import pytest
import torch
from huggingface_hub import constants
from transformers import AutoConfig, AutoModelForCausalLM

from auricle.core.decode import decode_block
from auricle.core.errors import ConfigError, ModelError
from auricle.core.frame import Block
from auricle.models.parts.components import resolve
from auricle.models.parts.folder import load_weights, save_model
from auricle.models.parts.skeleton import skeleton
from auricle.models.speech_llm.config import Config
from auricle.models.speech_llm.model import IGNORED, Conversation, build

LABELLING = ("encoder", "ctc_head")
CONFORMER = {"kind": "conformer", "config": {"width": 32, "layers": 2, "heads": 2, "subsampling_channels": 4,
                                             "dropout": 0.1, "frontend": {"n_mels": 16}}}
DECODER = {"model_type": "smollm3", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
           "num_key_value_heads": 1, "intermediate_size": 48, "max_position_embeddings": 128,
           "tie_word_embeddings": False}
VOCABULARY = 40
SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
         "intermediate_size": 48, "max_position_embeddings": 128}
DECODERS = {
    "smollm3": DECODER,
    "qwen3": {"model_type": "qwen3", "head_dim": 16, **SHAPE},
    "llama": {"model_type": "llama", **SHAPE},
    "lfm2": {"model_type": "lfm2", "layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False,
             **SHAPE},
}
"""What a decoder may be, in little."""


def plain(**changes):
    return {"kind": "speech_llm", "encoder": CONFORMER, "projector": {"kind": "swiglu", "hidden": 24},
            "decoder": {"config": DECODER}, "ctc_alphabet": "abcde", **changes}


def tiny(**changes) -> Config:
    return decode_block("models", plain(**changes))


def built(**changes):
    torch.manual_seed(0)
    return build(tiny(**changes), VOCABULARY).eval()


def heard(model, seconds=(0.5, 0.9)):
    """(features, lengths, conversation) of prompts of 3, an answer of 2, and audio tokens between."""
    samples = [round(16_000 * one) for one in seconds]
    features = [model.frontend(torch.randn(one, generator=torch.Generator().manual_seed(one))) for one in samples]
    tokens = [model.audio_tokens(one) for one in samples]
    width = max(tokens) + 5
    ids = torch.zeros(len(samples), width, dtype=torch.long)
    valid, is_audio = torch.zeros_like(ids, dtype=torch.bool), torch.zeros_like(ids, dtype=torch.bool)
    labels = torch.full_like(ids, IGNORED)
    for row, count in enumerate(tokens):
        ids[row, :2], ids[row, 2 + count : 5 + count] = torch.tensor([3, 4]), torch.tensor([5, 6, 7])
        is_audio[row, 2 : 2 + count] = True
        valid[row, : 5 + count] = True
        labels[row, 3 + count : 5 + count] = torch.tensor([6, 7])
    lengths = torch.tensor([len(one) for one in features])
    padded = torch.nn.utils.rnn.pad_sequence(features, batch_first=True)
    return padded, lengths, Conversation(ids, valid, is_audio, labels)


@pytest.mark.parametrize("decoder", DECODERS)
def test_an_utterance_alone_is_answered_as_in_a_ragged_batch(decoder):
    model = built(decoder={"config": DECODERS[decoder]})
    features, lengths, talk = heard(model)
    together = model(features, lengths, talk).cross_entropy
    width = int(talk.valid[0].sum())
    alone = [model(features[:1, : lengths[0]], lengths[:1], Conversation(*(part[:1, :width] for part in talk))),
             model(features[1:], lengths[1:], Conversation(*(part[1:] for part in talk)))]
    assert together.item() == pytest.approx(sum(one.cross_entropy.item() for one in alone), rel=1e-5)


@pytest.mark.parametrize("decoder", DECODERS)
def test_padding_on_either_side_gives_the_same_answer(decoder):
    model = built(decoder={"config": DECODERS[decoder]})
    features, lengths, talk = heard(model)
    left = []
    for part, filler in zip(talk, (9, False, False, IGNORED), strict=True):
        moved = torch.full_like(part, filler)
        for row, width in enumerate(talk.valid.sum(1).tolist()):
            moved[row, len(part[row]) - width :] = part[row, :width]
        left.append(moved)
    expected = model(features, lengths, talk).cross_entropy.item()
    assert model(features, lengths, Conversation(*left)).cross_entropy.item() == pytest.approx(expected, rel=1e-5)


def test_the_answer_depends_on_the_audio():
    model = built()
    features, lengths, talk = heard(model)
    assert model(features, lengths, talk).cross_entropy != model(features.flip(1), lengths, talk).cross_entropy


def test_frozen_parts_leave_no_graph_and_get_no_gradient():
    model = built().train()
    model.requires_grad_(False)
    model.projector.requires_grad_(True)
    features, lengths, talk = heard(model)
    with torch.set_grad_enabled(True):
        encoded, _ = model.encode(features, lengths)
    assert not encoded.requires_grad
    model(features, lengths, talk).cross_entropy.backward()
    assert all(p.grad is not None and p.grad.any() for p in model.projector.parameters())
    assert all(p.grad is None for name, p in model.named_parameters() if not name.startswith("projector"))


@pytest.mark.parametrize("trains", [("projector",), ("encoder", "projector"), ("lora",), ("decoder", "projector")])
def test_every_part_that_trains_takes_part_whatever_is_in_the_batch(trains):
    model = built(lora={"rank": 2}).train()
    model.requires_grad_(False)
    for parameters in resolve(model, trains).values():
        for _, parameter in parameters:
            parameter.requires_grad_(True)
    nothing, nobody = torch.zeros(0, 0, dtype=torch.long), torch.zeros(0, dtype=torch.long)
    text = torch.tensor([[3, 4, 5, 6]])
    yes = torch.ones_like(text, dtype=torch.bool)
    for features, lengths, talk in (
        (torch.zeros(0, 0, 16), nobody, Conversation(nothing, nothing > 0, nothing > 0, nothing)),
        (torch.zeros(1, 0, 16), torch.zeros(1, dtype=torch.long), Conversation(text, yes, ~yes, text)),
        heard(model),
    ):
        model.zero_grad()
        model(features, lengths, talk).cross_entropy.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def test_lora_is_a_component_of_its_own_and_changes_nothing_before_it_is_trained():
    plain_model, adapted = built(), built(lora={"rank": 2})
    names = {name for name, _ in resolve(adapted, ["lora"])["lora"]}
    assert names
    assert all(".lora_" in name for name in names)
    found = resolve(adapted, adapted.components())
    assert not names & {name for name, _ in found["decoder"]}
    assert {name for name, _ in found["decoder"]} == {name for name, _ in resolve(plain_model, ["decoder"])["decoder"]}
    adapted.load_state_dict(
        {name.replace(".weight", ".base_layer.weight") if f"{name.removesuffix('.weight')}.base_layer.weight"
         in adapted.state_dict() else name: value for name, value in plain_model.state_dict().items()}, strict=False)
    talk = heard(plain_model)
    assert adapted(*talk).cross_entropy.item() == pytest.approx(plain_model(*talk).cross_entropy.item(), rel=1e-5)


def test_lora_names_layers_that_there_are():
    with pytest.raises(ConfigError, match=r"model\.lora\.target_modules"):
        built(lora={"target_modules": ["q_project"]})


def test_a_stage_may_name_the_top_layers():
    model = built()
    for name in ("encoder.top(1)", "decoder.top(1)"):
        found = resolve(model, [name])[name]
        assert found
        assert all("layers.1." in path for path, _ in found)


def test_a_model_without_an_alphabet_has_no_ctc_head():
    model = built(ctc_alphabet=None)
    assert "ctc_head" not in model.components()
    features, lengths, _ = heard(model)
    with pytest.raises(ModelError, match=r"model\.ctc_alphabet"):
        model(features, lengths)


def test_a_pretrained_decoder_is_loaded_and_its_folder_needs_it_no_more(tmp_path):
    torch.manual_seed(3)
    theirs = AutoModelForCausalLM.from_config(AutoConfig.for_model(
        **{**DECODER, "vocab_size": VOCABULARY, "pad_token_id": None, "bos_token_id": None, "eos_token_id": None}))
    theirs.save_pretrained(tmp_path / "theirs")
    model = built(decoder={"pretrained": str(tmp_path / "theirs")})
    expected = theirs.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.language_model.state_dict().items())
    saved = model.saved_config(set())
    assert saved.decoder.pretrained is None
    json.dumps(saved.model_dump(mode="json"))
    (tmp_path / "ours").mkdir()
    save_model(tmp_path / "ours", model, model_config=saved, task_config=Block(kind="none"), vocabulary=VOCABULARY)
    (tmp_path / "theirs").rename(tmp_path / "gone")
    again = build(decode_block("models", saved.model_dump(mode="json")), VOCABULARY)
    load_weights(again, tmp_path / "ours")
    talk = heard(model)
    assert torch.equal(again.eval()(*talk).cross_entropy, model(*talk).cross_entropy)


COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_a_frozen_part_of_the_hub_is_named_and_not_stored(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    home = tmp_path / "cache" / "models--lab--words"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(COMMIT)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(
        **{**DECODER, "vocab_size": VOCABULARY, "pad_token_id": None, "bos_token_id": None, "eos_token_id": None},
    )).save_pretrained(home / "snapshots" / COMMIT)
    model = built(decoder={"pretrained": "lab/words"})
    assert {(name, part.hub, part.revision) for name, part in model.hub_parts.items()} == {
        ("decoder", "lab/words", COMMIT), ("lm_head", "lab/words", COMMIT)}
    saved = model.saved_config({"decoder", "lm_head"})
    assert (saved.decoder.pretrained, saved.decoder.revision) == ("lab/words", COMMIT)
    (tmp_path / "ours").mkdir()
    save_model(tmp_path / "ours", model, model_config=saved, task_config=Block(kind="none"), vocabulary=VOCABULARY,
               parts=model.hub_parts)
    assert {path.name for path in (tmp_path / "ours").glob("*.safetensors")} == {
        "ctc_head.safetensors", "encoder.safetensors", "projector.safetensors"}
    again = built(decoder={"pretrained": "lab/words", "revision": COMMIT})
    load_weights(again, tmp_path / "ours")
    with torch.no_grad():
        next(again.language_model.parameters()).add_(1.0)
    with pytest.raises(ModelError, match="have the hash"):
        load_weights(again, tmp_path / "ours")


def test_a_component_in_half_precision_works_frozen_beside_others_in_single():
    model = built(decoder={"config": DECODER, "dtype": "bfloat16"})
    features, lengths, talk = heard(model)
    exact = built()(features, lengths, talk).cross_entropy
    assert model(features, lengths, talk).cross_entropy.item() == pytest.approx(exact.item(), rel=0.02)


@pytest.mark.parametrize(("changes", "sentence"), [
    ({"projector": {"kind": "swiglue"}}, "swiglu"),
    ({"encoder": {"kind": "wisper"}}, "did you mean 'whisper'"),
    ({"decoder": {}}, "give 'pretrained'"),
    ({"decoder": {"config": {"model_type": "smollm3", "hidden_sise": 3}}}, "did you mean 'hidden_size'"),
    ({"decoder": {"config": {"model_type": "nothing"}}}, "transformers has no 'nothing'"),
    ({"encoder": {**CONFORMER, "window": "full"}}, "encoder_window"),
])
def test_a_mistake_in_the_block_is_one_sentence(changes, sentence):
    with pytest.raises(ConfigError, match=sentence):
        built(**changes)


def test_a_decoder_that_cannot_be_had_is_a_sentence(tmp_path):
    with pytest.raises(ModelError, match=r"model.decoder.pretrained: .* expected a folder that transformers"):
        built(decoder={"pretrained": str(tmp_path / "nothing")})


def test_a_skeleton_knows_lengths_and_no_weights():
    model = built()
    bare = skeleton(model.encoder)
    assert [bare.lengths(one) for one in (0, 1600, 16_000)] == [model.encoder.lengths(one) for one in (0, 1600, 16_000)]
    assert not list(bare.parameters())
    assert list(model.encoder.parameters())


@pytest.mark.parametrize("kind", ["hubert", "wavlm", "wav2vec2"])
def test_a_skeleton_of_a_wave_encoder_travels_to_a_worker(kind):
    config = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
              "conv_dim": [8] * 7, "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
    model = built(encoder={"kind": kind, "config": config, "normalize": False})
    there = pickle.loads(pickle.dumps(skeleton(model.encoder)))
    assert [there.lengths(one) for one in (0, 399, 16_000)] == [model.encoder.lengths(one) for one in (0, 399, 16_000)]
