"""From encoder frames to labels: greedy, and a beam over any sum of scores, all utterances of a batch at once.

One beam serves attention alone (its only scorer is `Attention`), joint decoding (Watanabe et al. 2017, one-pass
decoding: (1-λ) · log p_attention + λ · log p_ctc, where CTC scores prefixes, see ctc_prefix.py) and hotwords. Scorers
are summed over the whole vocabulary: none merely rescores what another one lets pass.

A hypothesis that took the end symbol is finished: its labels and score change no more. It competes with the others on,
and the best finished one is never crowded out, so that what was once found is not lost to something that ends worse.

# B utterances · W hypotheses of each (beam size) · E encoder frames · D width · V labels, class V is the end symbol
# P symbols so far
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Labels = tuple[int, ...]


class Decoder(Protocol):
    """What models/voxformer/decoder.py says of them."""

    end: int

    def start(self, memory: Tensor, lengths: Tensor, beams: int = 1) -> "Beams": ...

    def step(self, tokens: Tensor, cache: "Beams") -> Tensor: ...


class Beams(Protocol):
    """What remembers something of each hypothesis. Utterances and places in the beam are told by their numbers."""

    def reorder(self, parents: Tensor) -> None:
        """(B, W): the hypothesis at place w goes on from the one that was at place parents[:, w]."""
        ...

    def keep(self, utterances: Tensor) -> None:
        """(B',): only these go on."""
        ...


class Scorer(Protocol):
    """Scores what may follow each hypothesis, in a search that begins with W empty ones."""

    falls: bool
    """No symbol adds anything above 0, as with log probabilities."""

    def scores(self) -> Tensor:
        """(B, W, V+1): what each symbol adds to its hypothesis; class V ends it. -inf where it cannot be."""
        ...

    def advance(self, parents: Tensor, symbols: Tensor) -> None:
        """(B, W), (B, W): as `Beams.reorder`, then a symbol is appended. After the end symbol anything may be said."""
        ...

    def keep(self, utterances: Tensor) -> None: ...


@dataclass(frozen=True)
class Found:
    """What a search found in an utterance."""

    hypotheses: list[tuple[Labels, float]]
    """(labels, score), the best first; at least one, at most as many as the beam is wide."""
    cut: bool
    """None of them ended before the limit: the labels were cut off there."""


class Attention:
    """The decoder as a scorer: log p(symbol | hypothesis, frames)."""

    falls = True

    def __init__(self, decoder: Decoder, memory: Tensor, lengths: Tensor, beams: int) -> None:
        """(B, E, D), (B,)"""
        self.decoder, self.cache = decoder, decoder.start(memory, lengths, beams)
        self._step(torch.full((len(memory), beams), decoder.end, device=memory.device))

    def scores(self) -> Tensor:
        return self.log_probs

    def advance(self, parents: Tensor, symbols: Tensor) -> None:
        self.cache.reorder(parents)
        self._step(symbols)

    def keep(self, utterances: Tensor) -> None:
        self.cache.keep(utterances)
        self.log_probs = self.log_probs[utterances]

    def _step(self, symbols: Tensor) -> None:
        logits = self.decoder.step(symbols, self.cache)  # (B, W, V+1)
        self.log_probs = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)


def limits(lengths: Tensor, maximum: int | None) -> Tensor:
    """(B,) encoder frames → the most symbols of a hypothesis: a label a frame and the end, no more than `maximum`."""
    most = (lengths + 1).masked_fill(lengths == 0, 0)
    return most if maximum is None else most.clamp(max=maximum)


@torch.no_grad()
def greedy(decoder: Decoder, memory: Tensor, lengths: Tensor, limit: Tensor) -> list[Found]:
    """(B, E, D), (B,), (B,) most symbols → the likeliest one at each place, up to the end symbol."""
    found = [Found([((), 0.0)], cut=False)] * len(lengths)
    alive = limit.nonzero().squeeze(1)  # (B',)
    attention = Attention(decoder, memory[alive], lengths[alive], beams=1)
    labels = torch.empty(len(alive), 0, dtype=torch.long, device=memory.device)  # (B', P)
    totals = torch.zeros(len(alive), dtype=torch.double, device=memory.device)
    stay = torch.zeros(len(alive), 1, dtype=torch.long, device=memory.device)
    while len(alive):
        best, symbols = attention.scores().squeeze(1).max(-1)  # (B',)
        totals, labels = totals + best, torch.cat([labels, symbols.unsqueeze(1)], 1)  # (B', P+1)
        ended = symbols == decoder.end
        done = ended | (labels.shape[1] == limit[alive])
        for row in done.nonzero().squeeze(1).tolist():
            said = labels[row].tolist()
            found[alive[row]] = Found([(tuple(said[:-1] if ended[row] else said), totals[row].item())],
                                      cut=not ended[row].item())
        going = (~done).nonzero().squeeze(1)
        if len(going) < len(done):
            alive, labels, totals, symbols, stay = (x[going] for x in (alive, labels, totals, symbols, stay))
            attention.keep(going)
        if len(alive):
            attention.advance(stay, symbols.unsqueeze(1))
    return found


@torch.no_grad()
def beam(scorers: Sequence[tuple[float, Scorer]], limit: Tensor, *, size: int, end: int,
         length_penalty: float = 0.0) -> list[Found]:
    """[(weight, scorer of W = size hypotheses)], (B,) most symbols → each utterance's finished hypotheses.

    They are ranked by the weighted sum of their scores divided by (symbols, the end symbol included) ** length_penalty,
    which is the score that is returned. An utterance is done when none of its hypotheses can still beat the best
    finished one, or at the limit; if none is finished there, those that were cut are returned.
    """
    scorers = [(weight, scorer) for weight, scorer in scorers if weight]
    falls = all(scorer.falls for _, scorer in scorers)
    found = [Found([((), 0.0)], cut=False)] * len(limit)
    alive = limit.nonzero().squeeze(1)  # (B',)
    hypotheses = _Hypotheses.empty(limit[alive], size, end, length_penalty)
    for _, scorer in scorers:
        scorer.keep(alive)
    while len(alive):
        parents, symbols = hypotheses.extend(sum(weight * scorer.scores().double() for weight, scorer in scorers))
        done = hypotheses.done(falls)
        for row in done.nonzero().squeeze(1).tolist():
            found[alive[row]] = hypotheses.found(row)
        going = (~done).nonzero().squeeze(1)
        alive, parents, symbols = alive[going], parents[going], symbols[going]
        if len(going) < len(done):
            hypotheses.keep(going)
            for _, scorer in scorers:
                scorer.keep(going)
        if len(alive):
            for _, scorer in scorers:
                scorer.advance(parents, symbols)
    return found


@dataclass
class _Hypotheses:
    """All beams, extended by one symbol at a time."""

    limit: Tensor
    """(B,)"""
    end: int
    length_penalty: float
    labels: Tensor
    """(B, W, P); a finished one is padded with the end symbol."""
    totals: Tensor
    """(B, W): summed scores, not normalised; -inf at a place of the beam that holds no hypothesis."""
    finished: Tensor
    """(B, W) bool"""
    symbols: Tensor
    """(B, W): how many, the end symbol included."""

    @classmethod
    def empty(cls, limit: Tensor, size: int, end: int, length_penalty: float) -> "_Hypotheses":
        nothing = torch.zeros(len(limit), size, dtype=torch.long, device=limit.device)
        totals = torch.full(nothing.shape, -math.inf, dtype=torch.double, device=limit.device)
        totals[:, 0] = 0.0  # one hypothesis; W equal ones would stay equal
        return cls(limit, end, length_penalty, nothing.unsqueeze(-1)[:, :, :0], totals, nothing.bool(), nothing)

    def extend(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """(B, W, V+1) what each symbol adds → (parents, symbols) of the best, each (B, W)."""
        classes, length = scores.shape[-1], self.labels.shape[-1] + 1
        totals = (self.totals.unsqueeze(-1) + scores).masked_fill(self.finished.unsqueeze(-1), -math.inf)
        totals[:, :, self.end] = torch.where(self.finished, self.totals, totals[:, :, self.end])
        ranks = totals / length**self.length_penalty
        ranks[:, :, self.end] = torch.where(self.finished, self._kept_ranks(), ranks[:, :, self.end])
        chosen = ranks.flatten(1).topk(self.totals.shape[1]).indices  # (B, W)
        parents, symbols = chosen // classes, chosen % classes
        before = self.finished.gather(1, parents)
        self.totals = totals.flatten(1).gather(1, chosen)
        self.symbols = self.symbols.gather(1, parents).masked_fill(~before, length)
        self.finished = before | (symbols == self.end) & (self.totals > -math.inf)
        history = self.labels.gather(1, parents.unsqueeze(-1).expand_as(self.labels))
        self.labels = torch.cat([history, symbols.unsqueeze(-1)], -1)  # (B, W, P+1)
        return parents, symbols

    def _finished_ranks(self) -> Tensor:
        """(B, W), -inf where a hypothesis is not finished."""
        ranks = self.totals / self.symbols.clamp(min=1) ** self.length_penalty
        return ranks.masked_fill(~self.finished, -math.inf)

    def _kept_ranks(self) -> Tensor:
        """The same, but +inf for the best one, so that it stays in the beam whatever comes."""
        ranks = self._finished_ranks()
        best = ranks.argmax(1, keepdim=True)
        return ranks.scatter(1, best, math.inf)

    def done(self, falls: bool) -> Tensor:
        """(B,): no hypothesis can become better than the best finished one is, or the limit is reached."""
        length = self.labels.shape[-1]
        totals = self.totals.masked_fill(self.finished, -math.inf)  # (B, W)
        # What is below 0 can only fall, but divided by more it comes nearer to 0.
        best = totals / torch.where(totals < 0, self.limit.unsqueeze(1), length) ** self.length_penalty
        if not falls:
            best = best.masked_fill(best > -math.inf, math.inf)
        return (self._finished_ranks().amax(1) >= best.amax(1)) | (self.limit == length)

    def keep(self, utterances: Tensor) -> None:
        self.limit, self.labels, self.totals, self.finished, self.symbols = (
            x[utterances] for x in (self.limit, self.labels, self.totals, self.finished, self.symbols))

    def found(self, row: int) -> Found:
        cut = not self.finished[row].any().item()
        ranks = self.totals[row] / self.symbols[row].clamp(min=1) ** self.length_penalty
        usable = (ranks > -math.inf) & (self.finished[row] | cut)
        best = [place for place in ranks.argsort(descending=True).tolist() if usable[place]]
        texts = self.labels[row].tolist()
        return Found([(tuple(label for label in texts[place] if label != self.end), ranks[place].item())
                      for place in best] or [((), -math.inf)], cut)
