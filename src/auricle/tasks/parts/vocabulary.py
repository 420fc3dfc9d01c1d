"""A model's vocabulary: extended by words of a new domain, and compared with that of another model.

A row of the embedding, the output projection and the CTC head belongs to each label, and the last one to the class
after them (blank, end). Rows of new labels go between, each the mean of the rows of the labels that stood for it. Then

    · the logits of all old classes are what they were, and each new logit is the mean of some old ones;
    · so no new class is ever the likeliest one, and greedy decoding says the same of any audio;
    · an old text loses no more than log(1 + n) nats for each frame (CTC) or symbol (decoder), n being the new labels.

# V labels before · n new ones · D width
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from auricle.core.errors import ConfigError, ModelError, UsageError
from auricle.core.frame import Block
from auricle.core.text import normalizer
from auricle.data.extended_tokenizer import Extended, extended
from auricle.data.tokenizers import Characters, SentencePiece, load_tokenizer
from auricle.models.parts.folder import FolderConfig, read_config, stored_names
from auricle.models.parts.weights import named_tensors
from auricle.tasks.parts.assembly import Assembly, assemble

VERB = "auricle extend-vocabulary"


def extend(assembly: Assembly, words: Iterable[str]) -> Assembly:
    """The model with a label for each of these words that has none, normalised as its transcripts are.

    Raises UsageError: a model that spells with no labels of its own, words that are labels already.
    """
    model, tokenizer = assembly.model, assembly.tokenizer
    normalize = normalizer(getattr(assembly.task_config, "normalizer", "none"))
    if not hasattr(model, "label_tensors") or not isinstance(tokenizer, Characters | SentencePiece | Extended):
        raise UsageError(f"model '{assembly.model_config.kind}': its vocabulary cannot be extended; expected a model "
                         "that spells with labels of its own, as conformer and voxformer")
    if tokenizer.size != assembly.vocabulary:
        raise UsageError(f"its task '{assembly.task_config.kind}' has {tokenizer.size} labels, the model was built for "
                         f"{assembly.vocabulary}; expected a model folder with the task that it was built for")
    wanted = [word for line in words for word in normalize(line).split()]
    more, origins = extended(tokenizer, wanted)
    if not origins:
        raise UsageError(f"no new word among {len(wanted)}: each is one label already, or the same one again and again")
    made = assemble(assembly.model_config, assembly.task_config, more)
    ours = named_tensors(model)
    with torch.no_grad():
        for name, tensor in named_tensors(made.model).items():
            by_label = name in model.label_tensors()
            tensor.copy_(extended_rows(ours[name], origins) if by_label else ours[name])
    made.model.train(model.training)
    return made


def extended_rows(rows: Tensor, origins: Sequence[Sequence[int]]) -> Tensor:
    """(V+1, …) → (V+n+1, …): new rows before the last, each the mean of earlier ones (of labels up to its own)."""
    *labels, last = rows.double()
    for origin in origins:
        labels.append(torch.stack([labels[label] for label in origin]).mean(0))
    return torch.stack([*labels, last]).to(rows.dtype)


def refuse_other_labels(assembly: Assembly, folder: Path) -> None:
    """Raises ModelError where the model would take rows of other labels than its own from the folder."""
    names = getattr(assembly.model, "label_tensors", tuple)()
    saved, common = read_config(folder), sorted(set(names) & stored_names(folder))
    if common and load_tokenizer(folder) != assembly.tokenizer:
        raise ModelError(f"training.pretrained_model_path: {folder} has a vocabulary of {saved.vocabulary} labels, and "
                         f"this experiment another one of {assembly.vocabulary}; expected the same, as {common[0]} has "
                         f"a row for each label. {_advice(folder, _tokenizer(saved.task))}")


def refuse_other_tokenizer(task: Block, folder: Path, saved: FolderConfig) -> None:
    """Raises ConfigError where a task asks for another tokenizer than the one that comes with the model it starts
    from."""
    asked, there = _tokenizer(task.model_dump(mode="json")), _tokenizer(saved.task)
    if any(asked[key] != there[key] for key in asked.keys() & there.keys()):
        raise ConfigError(f"task.tokenizer: asks for {_named(asked)}, and training.pretrained_model_path {folder} has "
                          f"a vocabulary of {saved.vocabulary} labels; expected the same. {_advice(folder, there)}")


def _advice(folder: Path, tokenizer: Mapping[str, Any]) -> str:
    return (f"Take that model's task.tokenizer ({_named(tokenizer)}), and give it words that it lacks by "
            f"`{VERB} {folder} --words FILE --to FOLDER`")


def _tokenizer(task: Mapping[str, Any]) -> Mapping[str, Any]:
    return task.get("tokenizer") or {}


def _named(tokenizer: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in tokenizer.items() if value is not None) or "none"
