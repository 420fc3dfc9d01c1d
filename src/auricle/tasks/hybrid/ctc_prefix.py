"""CTC as a scorer of prefixes: the probability that a text begins with given labels (Graves 2008, prefix search;
Watanabe et al. 2017, algorithm 2), for every hypothesis, every next label and all frames at once.

With r_n[t] and r_b[t] the probability of all alignments of a hypothesis g to the first t frames that end in its last
label and in a blank, and φ[t] = r_b[t] + r_n[t], or r_b[t] for the label that g ends with, which needs a blank between,

    p(g·c…)  = Σ_t φ[t-1] · y_t(c)                                   a matrix product over all labels c
    r_n'[t]  = (r_n'[t-1] + φ[t-1]) · y_t(c)          r_b'[t] = (r_b'[t-1] + r_n'[t-1]) · y_t(blank)

Both recurrences are r[t] = (r[t-1] + a[t-1]) · y[t]. With Y[t] = Σ_{s≤t} log y[s] that is a cumulative sum,

    log r[t] = Y[t] + log Σ_{s≤t} exp(log a[s-1] - Y[s-1]),

so that no loop over frames is left, and only hypotheses that stay in the beam need it. All in double precision: Y falls
by thousands in a long utterance. Padding is a frame that is surely blank, which changes no probability.

# B utterances · W hypotheses of each · E encoder frames · V labels; class V is the blank of the CTC head and the end
# symbol of the search
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from auricle.models.parts.masks import valid_frames

LEAST = -1e3
"""log probability of what has none, of a label in a frame: -inf would make the differences of Y undefined."""
NEGLIGIBLE = -500.0
"""Alignments that much (in nats) less likely than a hypothesis's likeliest ones are no start for a longer one. It keeps
the products in the range where arithmetic is exact and fast."""


class CtcPrefix:
    """A `Scorer` (search.py): log p(prefix with one more symbol …) - log p(prefix …), by the CTC head.

    The scores of a finished hypothesis sum up to the log probability that the CTC loss gives its labels.
    """

    falls = True

    @torch.no_grad()
    def __init__(self, log_probs: Tensor, lengths: Tensor, beams: int) -> None:
        """(B, E, V+1), (B,)"""
        utterances, frames, classes = log_probs.shape
        self.blank = classes - 1
        padding = ~valid_frames(lengths, frames)  # (B, E)
        self.probs = log_probs.double().exp().masked_fill_(padding.unsqueeze(-1), 0.0)  # (B, E, V+1)
        self.probs[:, :, self.blank].masked_fill_(padding, 1.0)
        self.blanks = self._summed(self.probs[:, :, self.blank]).unsqueeze(1)  # (B, 1, E+1)
        self.prefix = self.probs.new_zeros(utterances, beams)  # (B, W): log p(hypothesis …)
        self.last = torch.full_like(self.prefix, self.blank, dtype=torch.long)  # (B, W); the blank where there is none
        self.in_blank = self.blanks.repeat(1, beams, 1)  # (B, W, E+1): log r_b
        self.in_label = torch.full_like(self.in_blank, -math.inf)  # (B, W, E+1): log r_n
        self.longer = self._longer()

    def scores(self) -> Tensor:
        """(B, W, V+1)"""
        prefix = self.prefix.unsqueeze(-1)
        return (self.longer - prefix).masked_fill(prefix == -math.inf, -math.inf)

    def advance(self, parents: Tensor, symbols: Tensor) -> None:
        """Finished hypotheses are carried on as if their end were a label; nobody reads their scores."""
        place = parents.unsqueeze(-1)  # (B, W, 1)
        longer, in_blank, in_label = (x.gather(1, place.expand_as(x)) for x in (
            self.longer, self.in_blank, self.in_label))
        repeats = (symbols == self.last.gather(1, parents)).unsqueeze(-1)
        before = torch.where(repeats, in_blank, torch.logaddexp(in_blank, in_label))  # (B, W, E+1): log φ
        labels = self._summed(self._of(symbols))  # (B, W, E+1)
        self.prefix, self.last = longer.gather(2, symbols.unsqueeze(-1)).squeeze(-1), symbols
        self.in_label = _recurrence(before, labels)
        self.in_blank = _recurrence(self.in_label, self.blanks)
        self.longer = self._longer()

    def keep(self, utterances: Tensor) -> None:
        for name in ("probs", "blanks", "prefix", "last", "in_blank", "in_label", "longer"):
            setattr(self, name, getattr(self, name)[utterances])

    def _of(self, symbols: Tensor) -> Tensor:
        """(B, W) → their probability in each frame, (B, W, E)."""
        return self.probs.gather(2, symbols.unsqueeze(1).expand(-1, self.probs.shape[1], -1)).transpose(1, 2)

    @staticmethod
    def _summed(probs: Tensor) -> Tensor:
        """(…, E) → Y, (…, E+1)"""
        return F.pad(probs.log().clamp(min=LEAST).cumsum(-1), (1, 0))

    def _longer(self) -> Tensor:
        """log p(hypothesis with one more symbol …), (B, W, V+1); with the end symbol, of the hypothesis itself."""
        either = torch.logaddexp(self.in_blank, self.in_label)  # (B, W, E+1)
        most = either.amax(-1, keepdim=True).clamp(min=torch.finfo(either.dtype).min)  # (B, W, 1)
        starts = either[:, :, :-1] - most  # (B, W, E)
        weights = starts.exp().masked_fill(starts < NEGLIGIBLE, 0.0)
        longer = (weights @ self.probs).log() + most  # (B, W, V+1)
        again = (self.in_blank[:, :, :-1] + self._of(self.last).log()).logsumexp(-1)  # (B, W)
        longer.scatter_(2, self.last.unsqueeze(-1), again.unsqueeze(-1))
        longer[:, :, self.blank] = either[:, :, -1]
        return longer


def _recurrence(before: Tensor, sums: Tensor) -> Tensor:
    """log a, Y → log r, each (B, W, E+1), where r[t] = (r[t-1] + a[t-1]) · y[t] and r[0] = 0."""
    return F.pad(sums[:, :, 1:] + (before - sums)[:, :, :-1].logcumsumexp(-1), (1, 0), value=-math.inf)
