"""Beam search with the attention decoder: what a cache and a batch are worth at 100 tokens a hypothesis.

Random weights, and an end symbol that never comes, so that every search takes all steps. The baseline decodes one
utterance after the other and reads each hypothesis again from its beginning at every step, cross attention included.
On a CPU the process's own time is taken, so that what else runs there counts less.

# B utterances · W hypotheses · E encoder frames · D width · V labels
"""

import time
from statistics import median

import torch
from torch import Tensor

from auricle.models.voxformer.config import DecoderConfig
from auricle.models.voxformer.decoder import AttentionDecoder
from auricle.tasks.hybrid.ctc_prefix import CtcPrefix
from auricle.tasks.hybrid.search import Attention, beam
from benchmarks.results import Figure, store

UTTERANCES, BEAM, TOKENS, FRAMES, WIDTH, LABELS = 16, 4, 100, 250, 256, 1000
DECODER = DecoderConfig(layers=2, heads=4, feedforward_width=1024, dropout=0.0)
ROUNDS = 3
BATCHED, JOINT, SINGLY = "batched with cache", "batched with cache, joint with CTC", "one by one with cache"
BATCHED_UNCACHED, SINGLY_UNCACHED = "batched, no cache", "one by one, no cache"


class Endless(AttentionDecoder):
    """Never says the end symbol."""

    def forward(self, tokens: Tensor, memory: Tensor, lengths: Tensor) -> Tensor:
        return self._without_end(super().forward(tokens, memory, lengths))

    def step(self, tokens: Tensor, cache) -> Tensor:
        return self._without_end(super().step(tokens, cache))

    def _without_end(self, logits: Tensor) -> Tensor:
        logits[..., self.end] = -torch.inf
        return logits


class Uncached:
    """The same decoder in a search, by teacher forcing over all that was said."""

    def __init__(self, decoder: AttentionDecoder) -> None:
        self.decoder, self.end = decoder, decoder.end

    def start(self, memory: Tensor, lengths: Tensor, beams: int = 1) -> "Said":
        return Said(memory, lengths, beams)

    def step(self, tokens: Tensor, cache: "Said") -> Tensor:
        cache.said = torch.cat([cache.said, tokens.unsqueeze(-1)], -1)
        logits = self.decoder(cache.said.flatten(0, 1), cache.memory, cache.lengths)
        return logits[:, -1].view(*tokens.shape, -1)


class Said:
    """(B, W, P) tokens, and the frames of each hypothesis."""

    def __init__(self, memory: Tensor, lengths: Tensor, beams: int) -> None:
        self.memory, self.lengths = memory.repeat_interleave(beams, 0), lengths.repeat_interleave(beams)
        self.said = torch.empty(len(memory), beams, 0, dtype=torch.long, device=memory.device)

    def reorder(self, parents: Tensor) -> None:
        self.said = self.said.gather(1, parents.unsqueeze(-1).expand_as(self.said))

    def keep(self, utterances: Tensor) -> None:
        assert len(utterances) in (0, len(self.said)), "here all utterances end together"


def search(decoder, memory: Tensor, log_probs: Tensor | None = None) -> list[tuple[int, ...]]:
    """The best labels of each utterance; with CTC's log probabilities, by joint decoding."""
    lengths = torch.full((len(memory),), FRAMES, device=memory.device)
    scorers = [(1.0, Attention(decoder, memory, lengths, BEAM))]
    if log_probs is not None:
        scorers.append((0.3, CtcPrefix(log_probs, lengths, BEAM)))
    limit = torch.full_like(lengths, TOKENS)
    return [found.hypotheses[0][0] for found in beam(scorers, limit, size=BEAM, end=LABELS)]


def one_by_one(decoder, memory: Tensor) -> list[tuple[int, ...]]:
    return [labels for row in memory for labels in search(decoder, row.unsqueeze(0))]


def clock(device: torch.device) -> float:
    """Seconds: of the processor on a CPU, of the wall on a GPU."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


@torch.no_grad()
def measure(device: torch.device) -> tuple[dict[str, float], int]:
    """Seconds of each way, and how many utterances have the same labels by all ways that use no CTC."""
    torch.manual_seed(1)
    decoder = Endless(DECODER, WIDTH, WIDTH, LABELS).to(device).eval()
    memory = torch.randn(UTTERANCES, FRAMES, WIDTH, device=device)
    log_probs = torch.randn(UTTERANCES, FRAMES, LABELS + 1, device=device).mul(3).log_softmax(-1)
    ways = {
        BATCHED: lambda: search(decoder, memory),
        JOINT: lambda: search(decoder, memory, log_probs),
        SINGLY: lambda: one_by_one(decoder, memory),
        BATCHED_UNCACHED: lambda: search(Uncached(decoder), memory),
        SINGLY_UNCACHED: lambda: one_by_one(Uncached(decoder), memory),
    }
    one_by_one(decoder, memory[:1])  # warms up
    took, texts = {}, {}
    for name, way in ways.items():
        spent = []
        for _ in range(1 if "no cache" in name else ROUNDS):
            began = clock(device)
            texts[name] = way()
            spent.append(clock(device) - began)
        took[name] = median(spent)
    del texts[JOINT]
    return took, sum(len(set(found)) == 1 for found in zip(*texts.values(), strict=True))


def run() -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    took, same = measure(device)

    def against(fast: str, slow: str, goal: str) -> Figure:
        return Figure(what=f"{slow} / {fast}", measured=f"{took[slow] / took[fast]:.1f} ×",
                      against=f"{goal}; {took[slow]:.1f} s", note=f"{took[fast]:.2f} s")

    size = (f"{UTTERANCES} utterances of {FRAMES} frames, beam {BEAM}, {TOKENS} tokens; decoder of {DECODER.layers} "
            f"layers, width {WIDTH}, {LABELS:,} labels, random weights")
    store("beam", f"Beam search ({size})", [
        against(BATCHED, SINGLY_UNCACHED, "≥ 10 ×"),
        against(SINGLY, SINGLY_UNCACHED, "≥ 4 ×"),
        against(BATCHED, BATCHED_UNCACHED, "≥ 4 ×"),
        against(BATCHED, SINGLY, "–"),
        Figure(what=JOINT, measured=f"{took[JOINT]:.2f} s", against=f"{BATCHED}: {took[BATCHED]:.2f} s",
               note="CTC scores every hypothesis with all labels over all frames"),
        Figure(what="utterances with the same labels by all ways of attention", measured=f"{same} of {UTTERANCES}",
               against="all", note=f"float32; with a cache medians of {ROUNDS} runs, without one run"),
    ])
