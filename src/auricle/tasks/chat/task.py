"""Answers in a conversation: the user's turn holds audio, the model's turn is what is learned and generated.

The loss is -log p of the answer's tokens and of the end of turn, summed over utterances and counted in tokens. What a
projector adds while training (load balance, router z-loss) and label smoothing are terms of their own, and part of no
evaluation.

# B utterances · S positions
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, TextIteratorStreamer

from auricle.core.errors import ConfigError, UsageError, nearest
from auricle.core.frame import Block
from auricle.core.text import normalizer
from auricle.data.chat_tokenizer import ChatTokenizer
from auricle.data.judge import Checks
from auricle.models.parts.components import unwrapped
from auricle.models.parts.skeleton import skeleton
from auricle.models.speech_llm.language_model import refuse_unlike
from auricle.models.speech_llm.model import SpeechLlm
from auricle.tasks import Hypothesis, Loss, Task, Term
from auricle.tasks.chat.batch import AudioTokens, ChatBatch, Collate
from auricle.tasks.chat.config import Config
from auricle.tasks.chat.prompt import Prompter, asked_for

ANSWER, SMOOTHING = "cross_entropy", "label_smoothing"


class ChatTask(Task):
    """For speech language models."""

    metrics = ("wer", "cer")
    takes_frames = True
    """What a frozen encoder made of audio may stand in its place (train/frozen_cache.py)."""

    def __init__(self, config: Config, model: SpeechLlm, tokenizer: ChatTokenizer) -> None:
        # The placeholder is looked up nowhere, so it may lie outside of the embedding, at its end.
        looked_up = tokenizer.size - int(tokenizer.audio == tokenizer.size - 1)
        refuse_unlike(model.language_model, looked_up, "model.decoder")
        self.config, self.tokenizer, self.frontend = config, tokenizer, model.frontend
        self.max_seconds, self.instructions = config.max_seconds, config.asked
        self.decoders = tuple(sorted(("greedy", "beam"), key=lambda name: name != config.decoder))
        self.normalize = normalizer(config.normalizer)
        self.prompter = Prompter(tokenizer, model.config.system_prompt, config.asked)
        smoothed = (SMOOTHING,) if config.label_smoothing_factor else ()
        self.collate = Collate(
            model.frontend, self.prompter, config.instruction, self.normalize,
            AudioTokens(skeleton(model.encoder), skeleton(model.projector)),
            terms=(ANSWER, *smoothed), audio_terms=getattr(model.projector, "token_losses", ()),
            batch_terms=getattr(model.projector, "batch_losses", ()))

    def checks(self) -> Checks:
        return Checks(unknown_characters=lambda text: self.tokenizer.unknown(self.normalize(text)))

    def loss(self, model: nn.Module, batch: ChatBatch) -> Loss:
        """Terms "cross_entropy", and while training "label_smoothing" and the projector's own."""
        found = model(batch.features, batch.feature_lengths, batch.conversation, batch.encoded)
        factor = self.config.label_smoothing_factor if model.training else 0.0
        terms = {ANSWER: Term(sum=found.cross_entropy, count=batch.counts[ANSWER], weight=1.0 - factor)}
        if factor:
            terms[SMOOTHING] = Term(sum=found.smoothing, count=batch.counts[SMOOTHING], weight=factor)
        for name, own in found.auxiliary.items():
            terms[name] = Term(sum=own.sum, count=batch.counts[name], weight=own.weight, per_batch=own.per_batch)
        return Loss(terms=terms, health=found.health)

    @torch.no_grad()
    def predict(self, model: nn.Module, batch: ChatBatch, decoder: str = "") -> list[Hypothesis]:
        """By "greedy" or "beam"."""
        decoder = decoder or self.decoders[0]
        if decoder not in self.decoders:
            raise UsageError(f"decoder: no '{decoder}'; {nearest(decoder, self.decoders)}")
        answers = self._answers(unwrapped(model), batch, num_beams=self.config.beam_size if decoder == "beam" else 1)
        rows = zip(batch.ids, batch.references, batch.utterance_seconds, answers, strict=True)
        return [Hypothesis(id=name, text=text, reference=reference, seconds=seconds)
                for name, reference, seconds, text in rows]

    def _answers(self, model: SpeechLlm, batch: ChatBatch, **options: object) -> list[str]:
        """Nothing is said about what has neither audio nor text: it would be made up."""
        asked = asked_for(batch.conversation, batch.prompt_lengths)
        heard = (batch.prompt_lengths > batch.frame_lengths).tolist()
        if not any(heard):
            return [""] * len(batch.ids)
        options = {"generation_config": self._generation(**options)}
        ids = model.generate(batch.features, batch.feature_lengths, asked, **options)
        return [self._text(row) if one else "" for row, one in zip(ids, heard, strict=True)]

    def _text(self, ids: Tensor) -> str:
        """Up to the end of turn, never beyond."""
        labels = ids.tolist()
        if self.tokenizer.end in labels:
            labels = labels[: labels.index(self.tokenizer.end)]
        return self.tokenizer.decode(labels).strip()

    def _generation(self, **options: object) -> GenerationConfig:
        return GenerationConfig(
            max_new_tokens=self.config.max_new_tokens, do_sample=False, eos_token_id=self.tokenizer.end,
            pad_token_id=self.tokenizer.end, **options)

    def stream(self, model: nn.Module, batch: ChatBatch) -> Iterator[str]:
        """Pieces of the answer about a batch of one utterance, as they are generated; together what `predict` says."""
        assert len(batch.ids) == 1, f"{len(batch.ids)} utterances; one is streamed at a time"
        if not bool((batch.prompt_lengths > batch.frame_lengths).all()):
            return
        streamer = TextIteratorStreamer(self.tokenizer.backend, skip_special_tokens=True)
        asked = asked_for(batch.conversation, batch.prompt_lengths)
        options = {"generation_config": self._generation(num_beams=1), "streamer": streamer}
        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(unwrapped(model).generate, batch.features, batch.feature_lengths, asked, **options)
            done.add_done_callback(lambda _: streamer.end())  # also where it failed: nobody may wait for more
            said = shown = ""
            for piece in streamer:
                said += piece
                yield said.strip()[len(shown) :]  # as `predict` strips it: space at the end waits for what follows
                shown = said.strip()
            done.result()


def build(config: Config, model: SpeechLlm, tokenizer: ChatTokenizer) -> ChatTask:
    if not hasattr(model, "language_model"):
        raise ConfigError("task.kind: 'chat' needs a model with a language model, such as model.kind speech_llm")
    if not isinstance(tokenizer, ChatTokenizer):
        raise ConfigError(f"task.kind: 'chat' needs the tokenizer of a language model, this one is "
                          f"{type(tokenizer).__name__}; start from a model whose last task was 'chat'")
    return ChatTask(config, model, tokenizer)


def tokenizer_for(config: Config, model_config: Block, texts: Iterable[str]) -> ChatTokenizer:
    """The language model's own, or one that is trained on the normalised transcripts."""
    decoder = getattr(model_config, "decoder", None)
    if decoder is None:
        raise ConfigError(f"task.kind: 'chat' needs a model with a language model, '{model_config.kind}' has none; "
                          "expected model.kind speech_llm")
    if decoder.pretrained is not None:
        return ChatTokenizer.load(decoder.pretrained, decoder.revision)
    return ChatTokenizer.train(map(normalizer(config.normalizer), texts), decoder.tokenizer_size)
