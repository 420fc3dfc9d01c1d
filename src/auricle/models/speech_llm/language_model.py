"""The causal language model of transformers: fresh, from a folder or from the hub, with adapters where they are wanted.

# N labelled positions · D width · V vocabulary
"""

import json
from collections.abc import Iterator
from typing import Any

import torch
from huggingface_hub.errors import HFValidationError
from peft import LoraConfig as PeftConfig
from peft import inject_adapter_in_model
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedConfig, PreTrainedModel

from auricle.core.errors import ConfigError, ModelError, nearest
from auricle.models.parts.encoders.parts.pretrained import commit_of
from auricle.models.speech_llm.config import DecoderConfig, LoraConfig

LOGITS_AT_ONCE = 1 << 24
"""Numbers of a chunk of logits: 64 MB of float32, whatever the vocabulary and the length of the batch."""


def build_language_model(config: DecoderConfig, vocabulary: int) -> tuple[PreTrainedModel, str | None]:
    """→ (the model, the commit of the hub that it came from). `vocabulary` is the size of a fresh model's; a pretrained
    one has its own. Raises ConfigError and ModelError."""
    dtype, commit = getattr(torch, config.dtype), None
    if config.pretrained is not None:
        model, commit = _pretrained(config, dtype)
    else:
        model = AutoModelForCausalLM.from_config(_fresh(config, vocabulary), dtype=dtype, attn_implementation="sdpa")
    model.generation_config = GenerationConfig()  # nothing is sampled that the task did not ask for
    return model, commit


def _pretrained(config: DecoderConfig, dtype: torch.dtype) -> tuple[PreTrainedModel, str | None]:
    try:
        commit = commit_of(config.pretrained, config.revision)
        model, report = AutoModelForCausalLM.from_pretrained(
            config.pretrained, revision=commit or config.revision, dtype=dtype, attn_implementation="sdpa",
            output_loading_info=True)
    except (OSError, HFValidationError, SafetensorError, ValueError) as error:
        said = (str(error).strip() or repr(error)).splitlines()[0].rstrip(" .")
        raise ModelError(f"model.decoder.pretrained: '{config.pretrained}': {said}; expected a folder that "
                         "transformers saved, or a causal language model of the hub (owner/name) that this machine can "
                         "reach or has in its cache") from None
    if missing := sorted(report["missing_keys"]):
        raise ModelError(f"model.decoder.pretrained: '{config.pretrained}': {len(missing)} tensors are missing, first "
                         f"{missing[0]}; are its config.json and its weights those of one model?")
    return model, commit


def _fresh(config: DecoderConfig, vocabulary: int) -> PreTrainedConfig:
    values = {"vocab_size": vocabulary, **config.config}
    kind = values.pop("model_type")
    try:
        found = AutoConfig.for_model(kind)
    except ValueError:
        raise ConfigError(
            f"model.decoder.config.model_type: transformers has no '{kind}'; expected one such as smollm3, qwen3, llama"
        ) from None
    known = found.to_dict().keys() | {"pad_token_id", "bos_token_id", "eos_token_id"}
    for name in values:
        if name not in known:
            raise ConfigError(f"model.decoder.config: {kind} has no key '{name}'; {nearest(name, known)}")
    # Special tokens of the original lie outside of a smaller vocabulary.
    special = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"))
    return AutoConfig.for_model(kind, **{**special, **values})


def plain_config(model: PreTrainedModel) -> dict[str, Any]:
    """The configuration as `DecoderConfig.config` takes it, complete."""
    return json.loads(model.config.to_json_string(use_diff=False))


def put_adapters(model: PreTrainedModel, config: LoraConfig) -> "Adapters":
    """Puts low-rank adapters into the model's own layers, in place."""
    wanted = PeftConfig(r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout,
                        target_modules=config.target_modules, task_type="CAUSAL_LM")
    try:
        inject_adapter_in_model(wanted, model)
    except ValueError as error:
        raise ConfigError(f"model.lora.target_modules: {str(error).splitlines()[0]}") from None
    return Adapters(model)


class Adapters(nn.Module):
    """The low-rank adapters among a model's layers, as a component of their own; it holds no module itself."""

    owns = True
    """These parameters belong to this component alone, although they lie inside another one."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        object.__setattr__(self, "_model", model)  # unseen by nn.Module: the parameters stay where they are

    def named_parameters(self, *_: Any, **__: Any) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, parameter) for name, parameter in self._model.named_parameters() if ".lora_" in name)

    def parameters(self, *_: Any, **__: Any) -> Iterator[nn.Parameter]:
        return (parameter for _, parameter in self.named_parameters())

    def state_dict(self, *_: Any, keep_vars: bool = False, **__: Any) -> dict[str, Tensor]:
        return {name: parameter if keep_vars else parameter.detach() for name, parameter in self.named_parameters()}


def cross_entropy(hidden: Tensor, labels: Tensor, head: nn.Module) -> tuple[Tensor, Tensor]:
    """(N, D), (N,) → Σ -log p(label), and Σ over positions of the mean of -log p over the vocabulary, () each.

    Logits exist for one chunk of positions at a time, going forth and again going back, so that memory grows neither
    with the vocabulary nor with the positions. (1-ε) of the first and ε of the second are the cross entropy with
    labels smoothed by ε (Szegedy et al. 2016, §7).
    """
    size = max(1, LOGITS_AT_ONCE // _vocabulary(head))
    if len(labels) <= size:
        return _sums(hidden, labels, head)
    total = uniform = hidden.new_zeros((), dtype=torch.promote_types(hidden.dtype, torch.float32))
    for some, their in zip(hidden.split(size), labels.split(size), strict=True):
        one, other = checkpoint(_sums, some, their, head, use_reentrant=False)
        total, uniform = total + one, uniform + other
    return total, uniform


def _vocabulary(head: nn.Module) -> int:
    return getattr(head, "out_features", None) or head.weight.shape[0]


def _sums(hidden: Tensor, labels: Tensor, head: nn.Module) -> tuple[Tensor, Tensor]:
    logits = head(hidden)  # (N, V)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    normalizer = logits.logsumexp(-1)  # (N,)
    chosen = logits.gather(-1, labels.unsqueeze(-1)).squeeze(-1)  # (N,)
    return (normalizer - chosen).sum(), (normalizer - logits.mean(-1)).sum()


def refuse_unlike(model: PreTrainedModel, needed: int, where: str) -> None:
    """Raises ModelError where a tokenizer has entries that the model cannot embed."""
    rows = model.get_input_embeddings().num_embeddings
    if needed > rows:
        raise ModelError(f"{where}: the tokenizer has {needed} entries, the model's embedding {rows}; expected those "
                         "of one and the same model")
