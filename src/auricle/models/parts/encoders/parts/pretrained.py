"""Checkpoints that transformers wrote, and fresh weights of the same architectures.

transformers takes any key of a configuration, initialises what a checkpoint lacks and says so in a log; here both are
errors.
"""

import contextlib
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import _CACHED_NO_EXIST, try_to_load_from_cache
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import PreTrainedConfig, PreTrainedModel, Wav2Vec2FeatureExtractor
from transformers.utils import CONFIG_NAME, FEATURE_EXTRACTOR_NAME, cached_file, logging

from auricle.core.errors import ConfigError, ModelError, nearest
from auricle.core.folder import names
from auricle.models.parts.encoders.parts.config import ROOM, EncoderConfig

COMMON = {field.name for field in fields(PreTrainedConfig)}
"""Keys that say nothing about an architecture."""


def load(config: EncoderConfig, model_class: type[PreTrainedModel], *, off: Collection[str],
         key_mapping: Mapping[str, str] | None = None) -> tuple[PreTrainedModel, str | None]:
    """→ (the model in eval mode, with sdpa where transformers has it; the commit of the hub that it came from).

    `off` are keys of its configuration that are set to 0: they would draw random numbers of their own. `key_mapping`
    has patterns of a checkpoint's names and what to put in their place. Raises ConfigError and ModelError.
    """
    options = {"dtype": getattr(torch, config.dtype),
               "attn_implementation": "sdpa" if model_class._supports_sdpa else "eager"}
    if config.pretrained is None:
        return _fresh(config.config, model_class, off, options).eval(), None
    with _as_model_errors(config.pretrained):
        commit = commit_of(config.pretrained, config.revision)
        options |= {"revision": commit or config.revision, "key_mapping": key_mapping}
        return _pretrained(config.pretrained, model_class, off, options), commit


def configuration(model: PreTrainedModel) -> dict[str, Any]:
    """Its whole configuration as plain values, which `load` takes for fresh weights."""
    keys = {field.name for field in fields(model.config)} - COMMON
    plain = json.loads(model.config.to_json_string(use_diff=False))
    return {key: value for key, value in plain.items() if key in keys}


def audio_settings(name: str, commit: str | None) -> dict[str, Any]:
    """What preprocessor_config.json says; nothing where there is none. Raises ModelError where that is unknown."""
    try:
        return Wav2Vec2FeatureExtractor.get_feature_extractor_dict(name, revision=commit)[0]
    except OSError:
        known = Path(name).is_dir() or (
            try_to_load_from_cache(name, FEATURE_EXTRACTOR_NAME, revision=commit) is _CACHED_NO_EXIST)
        if known:
            return {}
        raise ModelError(f"encoder '{name}': {FEATURE_EXTRACTOR_NAME} is not to be had, which says whether it takes a "
                         "normalised waveform. Fetch it where there is a network, or set the encoder's 'normalize' to "
                         "true or false") from None


def _fresh(keys: Mapping[str, Any], model_class: type[PreTrainedModel], off: Collection[str],
           options: Mapping[str, Any]) -> PreTrainedModel:
    config_class: type[PreTrainedConfig] = model_class.config_class
    known = {field.name for field in fields(config_class)} - COMMON | config_class.attribute_map.keys()
    for key, value in keys.items():
        if key not in known:
            raise ConfigError(f"encoder.config: no key '{key}' ({value}) in {config_class.__name__}; "
                              f"{nearest(key, known)}")
        if key in off and value:
            raise ConfigError(f"encoder.config: {key} is {value}; expected 0, since it draws random numbers that no "
                              "seed of ours decides. Remove it; augmentation is in data.augment")
    try:
        return model_class._from_config(config_class(**{**keys, **dict.fromkeys(off, 0.0)}), **options)
    except (StrictDataclassError, ValueError, KeyError) as error:
        raise ConfigError(f"encoder.config: {_one_line(error)}; expected what {config_class.__name__} of transformers "
                          "takes") from None


def _pretrained(name: str, model_class: type[PreTrainedModel], off: Collection[str],
                options: Mapping[str, Any]) -> PreTrainedModel:
    config_class: type[PreTrainedConfig] = model_class.config_class
    found, _ = config_class.get_config_dict(name, revision=options["revision"])
    _refuse_other_architectures(name, found.get("model_type"), config_class.model_type)
    their_config = config_class.from_dict({**found, **dict.fromkeys(off, 0.0)})
    with _quietly():
        model, report = model_class.from_pretrained(name, config=their_config, output_loading_info=True,
                                                    ignore_mismatched_sizes=True, **options)
    if absent := sorted({*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}):
        raise ModelError(f"encoder '{name}': {len(absent)} of the encoder's {len(model.state_dict())} tensors are "
                         f"missing or have another shape: {_listed(absent)}. Its config.json and its weights do not "
                         "belong together; fetch both again")
    return model


def commit_of(name: str, revision: str | None) -> str | None:
    """What the revision stands for; from then on a branch may move without mixing two states of it."""
    path = None if Path(name).is_dir() else cached_file(name, CONFIG_NAME, revision=revision)
    found = re.search("/snapshots/([0-9a-f]{40})/", Path(path).as_posix()) if path else None
    return found[1] if found else None


def _refuse_other_architectures(name: str, found: str | None, expected: str) -> None:
    if found is None:
        raise ModelError(f"encoder '{name}': no config.json with a 'model_type'; expected a checkpoint of '{expected}' "
                         "that transformers wrote")
    if found != expected:
        known = names(ROOM)
        advice = f"write kind: {found}" if found in known else nearest(found, known)
        raise ModelError(f"encoder '{name}': its architecture is '{found}', and the kind is '{expected}'; {advice}")


@contextlib.contextmanager
def _as_model_errors(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError, StrictDataclassError, ValueError) as error:
        raise ModelError(f"encoder '{name}': cannot be loaded: {_one_line(error)}. Expected a model of the hub or a "
                         "folder with config.json and model.safetensors; correct 'pretrained' and 'revision', or fetch "
                         "it where there is a network") from None


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without the list of what is not used of a checkpoint, such as Whisper's decoder; what is missing, we say."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")


def _listed(items: Iterable[str]) -> str:
    items = list(items)
    return ", ".join(items[:3]) + (f" and {len(items) - 3} more" if len(items) > 3 else "")
