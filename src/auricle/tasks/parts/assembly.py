"""A model, its tokenizer and its task put together: built from an experiment, or read from a model folder.

A model folder needs nothing else than the frozen parts that it names, if it names any:

    config.json              format, version, the model and task blocks, the vocabulary's size, weights and parts
    COMPONENT.safetensors    weights
    tokenizer …              what the tokenizer saves
    parts/<hash>/            frozen parts; a run keeps those of all its checkpoints once, in checkpoints/parts/<hash>/
"""

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from torch import Tensor, nn

from auricle.core.decode import decode_block
from auricle.core.errors import ConfigError, ModelError
from auricle.core.folder import find
from auricle.core.frame import Block
from auricle.data.tokenizers import Tokenizer, load_tokenizer
from auricle.models.parts.folder import (
    CONFIG,
    PART_WEIGHTS,
    HubPart,
    Part,
    load_weights,
    read_config,
    save_model,
    write_static,
)
from auricle.models.parts.weights import write_tensors
from auricle.store import directory
from auricle.tasks import Task


@dataclass(frozen=True, kw_only=True)
class Assembly:
    """What can be trained, evaluated and transcribed with."""

    model: nn.Module
    task: Task
    tokenizer: Tokenizer
    model_config: Block
    task_config: Block
    vocabulary: int
    """Labels that the model was built for: those of the experiment's task. A stage's own task may have others."""

    def for_task(self, task_config: Block, tokenizer: Tokenizer) -> Self:
        """The same model, which learns something else."""
        task = find("tasks", task_config.kind, "task").build(task_config, self.model, tokenizer)
        return replace(self, task=task, tokenizer=tokenizer, task_config=task_config)

    def save(self, folder: Path, parts: Mapping[str, Part] | None = None) -> None:
        """Writes a complete model folder, which names the components of `parts` and holds the others."""
        save_model(folder, self.model, parts=parts, **self._description(parts or {}))
        self.tokenizer.save(folder)

    def write_static(self, folder: Path, parts: Mapping[str, Part] | None = None) -> None:
        """Writes all of the model folder but the weights: what does not change while `parts` stay the same."""
        write_static(folder, self.model, parts=parts, **self._description(parts or {}))
        self.tokenizer.save(folder)

    def _description(self, parts: Mapping[str, Part]) -> dict[str, Any]:
        """A model that was built from pretrained parts says what it takes to build it without those that are stored."""
        hub = {component for component, part in parts.items() if isinstance(part, HubPart)}
        config = self.model.saved_config(hub) if hasattr(self.model, "saved_config") else self.model_config
        return {"model_config": config, "task_config": self.task_config, "vocabulary": self.vocabulary}


def assemble(model_config: Block, task_config: Block, tokenizer: Tokenizer, vocabulary: int | None = None) -> Assembly:
    """Builds the model for a vocabulary, that of the tokenizer unless another is given, with fresh weights."""
    vocabulary = tokenizer.size if vocabulary is None else vocabulary
    model = find("models", model_config.kind, "model").build(model_config, vocabulary)
    task = find("tasks", task_config.kind, "task").build(task_config, model, tokenizer)
    return Assembly(model=model, task=task, tokenizer=tokenizer, model_config=model_config, task_config=task_config,
                    vocabulary=vocabulary)


def tokenizer_for(task_config: Block, model_config: Block, texts: Iterable[str]) -> Tokenizer:
    """The tokenizer that the task's block asks for: the model's own, or one for these training transcripts."""
    return find("tasks", task_config.kind, "task").tokenizer_for(task_config, model_config, texts)


def load(folder: Path) -> Assembly:
    """Reads a model folder; ModelError where it is none, or where weights and configuration disagree."""
    saved = read_config(folder)
    try:
        model_config = decode_block("models", saved.model, str(folder / CONFIG), ("model",))
        task_config = decode_block("tasks", saved.task, str(folder / CONFIG), ("task",))
    except ConfigError as error:
        raise ModelError(f"{error}; was it written by another version of Auricle ({saved.auricle})?") from None
    assembly = assemble(model_config, task_config, load_tokenizer(folder), saved.vocabulary)
    load_weights(assembly.model, folder)
    assembly.model.eval()
    return assembly


def store_part(parts_folder: Path, tensors: Mapping[str, Tensor]) -> str:
    """Stores a frozen component as the verified directory <hash>/ and returns the hash, xxh3-128 of its file.

    The same tensors give the same hash and are stored once; what a stored part has lost is mended.
    """
    new = [path for path in (parts_folder, *parts_folder.parents) if not path.exists()]
    parts_folder.mkdir(parents=True, exist_ok=True)
    for path in new:
        directory.sync_directory(path.parent)
    with tempfile.TemporaryDirectory(prefix=directory.ASIDE, dir=parts_folder) as aside:
        file = Path(aside) / PART_WEIGHTS
        write_tensors(file, tensors)
        target = parts_folder / directory.digest(file)

        def write(folder: Path) -> None:
            file.rename(folder / PART_WEIGHTS)

        directory.publish(target, write, replace=bool(directory.problems(target)))
    return target.name
