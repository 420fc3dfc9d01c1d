"""Checkpoints that are not what they should be, and a hub that is not there."""

import json
import shutil

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from transformers import WhisperConfig, WhisperModel
from transformers.utils import logging

from auricle.core.errors import ConfigError, ModelError
from auricle.models.parts.encoders.parts.build import build, standalone
from auricle.models.parts.encoders.parts.config import EncoderConfig
from tests.models.parts.encoders.small import GROUP, STABLE, WHISPER, saved, theirs

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def change_config(folder, **keys):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **keys}), encoding="utf-8")


def said(config):
    with pytest.raises(ModelError) as caught:
        build(config)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A cache of the hub, without a network, that holds one HuBERT as `lab/hubert`: → the folder of its files."""
    cache = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    home = cache / "models--lab--hubert"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(COMMIT, encoding="utf-8")
    saved(theirs("hubert", GROUP), home / "snapshots" / COMMIT)
    return home / "snapshots" / COMMIT


@pytest.mark.parametrize(("kind", "other", "advice"), [
    ("wav2vec2", "hubert", "write kind: hubert"), ("whisper", "wavlm", "write kind: wavlm")])
def test_a_checkpoint_of_another_architecture_names_the_kind_to_use(tmp_path, kind, other, advice):
    name = saved(theirs(other, GROUP), tmp_path)
    sentence = said(EncoderConfig(kind=kind, pretrained=name))
    assert f"its architecture is '{other}', and the kind is '{kind}'; {advice}" in sentence


def test_an_architecture_that_we_do_not_have_gets_the_list_of_those_we_have(tmp_path):
    name = saved(theirs("hubert", GROUP), tmp_path)
    change_config(tmp_path, model_type="hubert_of_tomorrow")
    assert "Known: conformer, hubert, wav2vec2" in said(EncoderConfig(kind="hubert", pretrained=name))


@pytest.mark.parametrize("name", ["/no/such/folder", "./nowhere", "not a name", "lab/never-fetched"])
@pytest.mark.usefixtures("hub")
def test_what_is_neither_a_folder_nor_to_be_had_from_the_hub_is_said(name):
    sentence = said(EncoderConfig(kind="whisper", pretrained=name))
    assert sentence.startswith(f"encoder '{name}': cannot be loaded: ")
    assert "correct 'pretrained' and 'revision', or fetch it where there is a network" in sentence


def test_a_folder_without_a_configuration_is_no_checkpoint(tmp_path):
    assert "no config.json with a 'model_type'" in said(EncoderConfig(kind="whisper", pretrained=str(tmp_path)))


@pytest.mark.parametrize("damage", ["no weights", "half the weights", "configuration"])
def test_damaged_files_are_named(tmp_path, damage):
    name, weights = saved(theirs("hubert", GROUP), tmp_path), tmp_path / "model.safetensors"
    if damage == "no weights":
        weights.unlink()
    elif damage == "half the weights":
        weights.write_bytes(weights.read_bytes()[:5000])
    else:
        change_config(tmp_path, hidden_size="wide")
    assert f"encoder '{name}': cannot be loaded: " in said(EncoderConfig(kind="hubert", pretrained=name))


def test_weights_that_are_missing_or_have_another_shape_are_counted(tmp_path):
    name = saved(theirs("hubert", GROUP), tmp_path)
    change_config(tmp_path, num_hidden_layers=4)
    assert "16 of the encoder's" in said(EncoderConfig(kind="hubert", pretrained=name))
    change_config(tmp_path, num_hidden_layers=3, intermediate_size=32)
    assert "9 of the encoder's" in said(EncoderConfig(kind="hubert", pretrained=name))


def test_one_weight_that_is_missing_of_a_whole_whisper_is_missed(tmp_path):
    config = WhisperConfig(**WHISPER, decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=8, vocab_size=5,
                           pad_token_id=0)
    name, path = saved(WhisperModel(config), tmp_path), tmp_path / "model.safetensors"
    tensors = load_file(path)
    del tensors["encoder.layers.1.fc1.bias"]
    save_file(tensors, path, metadata={"format": "pt"})
    sentence = said(EncoderConfig(kind="whisper", pretrained=name))
    assert "1 of the encoder's" in sentence
    assert "layers.1.fc1.bias" in sentence


def test_loading_leaves_the_log_of_transformers_as_it_was(tmp_path):
    before = logging.get_verbosity()
    build(EncoderConfig(kind="hubert", pretrained=saved(theirs("hubert", GROUP), tmp_path)))
    assert logging.get_verbosity() == before


@pytest.mark.parametrize(("kind", "keys", "sentence"), [
    ("hubert", {"hidden_sise": 8}, r"no key 'hidden_sise' \(8\) in HubertConfig; did you mean 'hidden_size'\?"),
    ("whisper", {"label2id": {}}, "no key 'label2id'"),
    ("hubert", {**GROUP, "layerdrop": 0.1}, r"layerdrop is 0\.1; expected 0"),
    ("wavlm", {**GROUP, "mask_time_prob": 0.05}, r"mask_time_prob is 0\.05; expected 0.*data\.augment"),
    ("whisper", {**WHISPER, "encoder_layerdrop": 0.2}, r"encoder_layerdrop is 0\.2; expected 0"),
    ("hubert", {**GROUP, "hidden_size": "wide"}, "Field 'hidden_size' expected int"),
    ("hubert", {**GROUP, "num_attention_heads": 3}, "embed_dim must be divisible by num_heads"),
    ("hubert", {**GROUP, "conv_stride": [5, 2]}, "Configuration for convolutional layers is incorrect"),
    ("hubert", {**GROUP, "hidden_act": "gulu"}, "gulu")])
def test_a_configuration_that_transformers_would_take_or_choke_on_is_refused(kind, keys, sentence):
    with pytest.raises(ConfigError, match=f"encoder\\.config: .*{sentence}"):
        build(EncoderConfig(kind=kind, config=keys))


def test_keys_of_older_versions_are_left_out_of_the_configuration(tmp_path):
    name = saved(theirs("hubert", STABLE), tmp_path)
    change_config(tmp_path, feat_extract_dropout=0.0, gradient_checkpointing=False, mask_time_prob=0.5)
    keys = build(EncoderConfig(kind="hubert", pretrained=name)).configuration
    assert keys["do_stable_layer_norm"] is True
    assert keys["mask_time_prob"] == 0
    assert build(EncoderConfig(kind="hubert", config=keys)).configuration == keys


def test_names_that_transformers_has_for_the_same_key_are_known():
    keys = {**WHISPER, "hidden_size": WHISPER["d_model"]}
    del keys["d_model"]
    assert build(EncoderConfig(kind="whisper", config=keys)).width == 16


def test_a_model_of_the_hub_is_read_from_its_cache_and_knows_its_commit(hub):
    (hub / "preprocessor_config.json").write_text('{"do_normalize": true}', encoding="utf-8")
    for revision in (None, "main", COMMIT):
        config = EncoderConfig(kind="hubert", pretrained="lab/hubert", revision=revision)
        encoder = build(config)
        assert encoder.commit == COMMIT
        assert encoder.frontend.normalize is True
    assert standalone(config, encoder).normalize is True
    assert standalone(config, encoder).pretrained is None
    assert COMMIT not in json.dumps(encoder.configuration)


def test_a_revision_that_the_hub_does_not_have_is_said(hub):
    assert "cannot be loaded" in said(EncoderConfig(kind="hubert", pretrained="lab/hubert", revision="v7"))


def test_whether_to_normalise_is_asked_where_the_file_that_says_so_was_never_fetched(hub):
    config = EncoderConfig(kind="hubert", pretrained="lab/hubert")
    assert "set the encoder's 'normalize' to true or false" in said(config)
    assert build(config.model_copy(update={"normalize": True})).frontend.normalize is True
    absent = hub.parents[1] / ".no_exist" / COMMIT
    absent.mkdir(parents=True)
    (absent / "preprocessor_config.json").touch()
    assert build(config).frontend.normalize is False


def test_low_precision_is_that_of_the_config_and_not_of_the_checkpoint(tmp_path):
    name = saved(theirs("hubert", STABLE).half(), tmp_path)
    for dtype in ("float32", "bfloat16"):
        encoder = build(EncoderConfig(kind="hubert", pretrained=name, dtype=dtype))
        assert {parameter.dtype for parameter in encoder.parameters()} == {getattr(torch, dtype)}
    shutil.rmtree(tmp_path)
    assert encoder(torch.randn(1, 900, 1), torch.tensor([900]))[0].isfinite().all()
