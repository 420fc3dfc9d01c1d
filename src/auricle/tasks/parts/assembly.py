"""A model, its tokenizer and its task put together: built from an experiment, or read from a model folder.

A model folder needs nothing else:

    config.json          format, version, the model and task blocks, the vocabulary's size
    model.safetensors    weights
    tokenizer …          what the tokenizer saves
"""

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from auricle.core.folder import find
from auricle.core.frame import Block
from auricle.data.tokenizers import Tokenizer, load_tokenizer
from auricle.models.parts.folder import load_weights, read_config, save_model
from auricle.tasks import Task


@dataclass(frozen=True, kw_only=True)
class Assembly:
    """What can be trained, evaluated and transcribed with."""

    model: nn.Module
    task: Task
    tokenizer: Tokenizer
    model_config: Block
    task_config: Block

    def save(self, folder: Path) -> None:
        """Writes a complete model folder."""
        save_model(folder, self.model, model_config=self.model_config, task_config=self.task_config,
                   vocabulary=self.tokenizer.size)
        self.tokenizer.save(folder)


def assemble(model_config: Block, task_config: Block, tokenizer: Tokenizer) -> Assembly:
    """Builds the model for the tokenizer's vocabulary, with fresh weights."""
    model = find("models", model_config.kind, "model").build(model_config, tokenizer.size)
    task = find("tasks", task_config.kind, "task").build(task_config, model, tokenizer)
    return Assembly(model=model, task=task, tokenizer=tokenizer, model_config=model_config, task_config=task_config)


def tokenizer_for(task_config: Block, texts: list[str]) -> Tokenizer:
    """A tokenizer for these training transcripts, as the task's block asks for it."""
    return find("tasks", task_config.kind, "task").tokenizer_for(task_config, texts)


def load(folder: Path) -> Assembly:
    """Reads a model folder; ModelError where it is none, or where weights and configuration disagree."""
    saved = read_config(folder)
    blocks = {room: find(room, saved[part]["kind"], "config").Config.model_validate(saved[part], strict=False)
              for room, part in (("models", "model"), ("tasks", "task"))}
    assembly = assemble(blocks["models"], blocks["tasks"], load_tokenizer(folder))
    load_weights(assembly.model, folder)
    assembly.model.eval()
    return assembly
