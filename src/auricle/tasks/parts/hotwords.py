"""Phrases that a search is biased towards: names, commands, the words of a game.

A text earns `bonus` for each label of each whole phrase in it. A search must not wait until a phrase is whole, so a
hypothesis is lent the bonus of what it has matched and gives it back when the match fails or the text ends: what is not
completed earns nothing (shallow fusion towards phrases, Zhao et al. 2019). All phrases are followed at once by the
automaton of Aho & Corasick (1975): a state is the longest end of the text that begins a phrase, so what has been lent
and what is due are numbers of the state alone, and a hypothesis carries no more than its state.

Whole means: it begins and ends where words do, so "cat" earns nothing in "category". Where spaces are labels of their
own (characters), a phrase begins after one; where labels bring their space along (SentencePiece), it begins with such a
label. It ends before a label that is or brings a space, or at the end of the text. Without spaces in the alphabet, any
place will do. A phrase inside another one earns, too. Each has the one spelling that the tokenizer gives it, though
other labels may spell the same.

# S states, 0 is "no phrase has begun" · V labels, class V is the end symbol · B utterances · W hypotheses of each
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from auricle.core.errors import UsageError


@dataclass(frozen=True)
class Hotwords:
    """The automaton. What a text has earned is the sum of what its labels and its end earned, from `start` on."""

    start: int
    """The state of a text that has not begun."""
    following: np.ndarray
    """(S, V+1) int32: the next state."""
    lent: np.ndarray
    """(S,): what a text has got in advance for a phrase that is not whole yet."""
    due: np.ndarray
    """(S,): what it earns for good if what follows shows that phrases are whole."""
    opens: np.ndarray
    """(V+1,) bool: symbols that show it, as they begin a word or end the text."""

    @property
    def end(self) -> int:
        return len(self.opens) - 1

    def step(self, state: int, symbol: int) -> tuple[int, float]:
        """The next state and what the symbol earns, less what it gives back."""
        after = int(self.following[state, symbol])
        return after, float(self.opens[symbol] * self.due[state] + self.lent[after] - self.lent[state])


def hotwords(phrases: Iterable[str], encode: Callable[[str], Sequence[int]], decode: Callable[[Sequence[int]], str],
             size: int, bonus: float) -> Hotwords:
    """Phrases as people write them, text → labels (normalised as transcripts are), labels → text, number of labels, and
    what each label of a phrase earns (in nats, as log probabilities are).

    Takes 4 bytes a label of the phrases and a label of the tokenizer. Raises UsageError for a phrase without labels.
    """
    spelt = {phrase: tuple(encode(phrase)) for phrase in phrases}
    if empty := [phrase for phrase, labels in spelt.items() if not labels]:
        raise UsageError(f"hotwords: the tokenizer has no label for '{empty[0]}'; expected phrases in the alphabet of "
                         "the transcripts: correct it or leave it out")
    opens, space = _word_limits(spelt.values(), decode, size)
    tree = _Tree()
    for labels in spelt.values():
        tree.add(labels if opens[labels[0]] or space is None else (space, *labels), len(labels))
    return tree.automaton(opens, space, bonus)


def _word_limits(spelt: Iterable[Sequence[int]], decode: Callable[[Sequence[int]], str],
                 size: int) -> tuple[np.ndarray, int | None]:
    """(V+1,) bool: which symbols begin a word or end the text; and the label that is a space and nothing else."""
    letters = (label for labels in spelt for label in labels if decode([label]).strip())
    letter = next(letters, None)
    opens, space = np.zeros(size + 1, dtype=bool), None
    if letter is not None:
        before = decode([letter])
        added = [decode([letter, label]).removeprefix(before) for label in range(size)]
        opens[:size] = [text.startswith(" ") for text in added]
        space = added.index(" ") if " " in added else None
    if not opens.any():
        opens[:] = True  # no alphabet with spaces: every label is a word
    opens[size] = True
    return opens, space


class _Tree:
    """Phrases that begin alike share their first nodes; node 0 is the root."""

    def __init__(self) -> None:
        self.children: list[dict[int, int]] = [{}]
        self.whole = [0]
        """Labels of the phrase that ends at a node, 0 where none does."""

    def add(self, path: Sequence[int], labels: int) -> None:
        node = 0
        for label in path:
            if label not in self.children[node]:
                self.children[node][label] = len(self.children)
                self.children.append({})
                self.whole.append(0)
            node = self.children[node][label]
        self.whole[node] = labels

    def automaton(self, opens: np.ndarray, space: int | None, bonus: float) -> Hotwords:
        """Node by node from the root, so that what a node falls back to, a shorter one, is known before it."""
        following = np.zeros((len(self.children), len(opens)), dtype=np.int32)
        lent, due = np.zeros(len(self.children)), np.array(self.whole, dtype=float)
        queue = deque([(0, 0)])  # node, the longest other node that is an end of its path
        while queue:
            node, shorter = queue.popleft()
            due[node] += due[shorter]
            following[node] = following[shorter]
            for label, child in self.children[node].items():
                earned_for_good = self.whole[node] and opens[label]
                lent[child] = (0 if earned_for_good else lent[node]) + (node != 0 or label != space)
                queue.append((child, int(following[shorter, label]) if node else 0))
                following[node, label] = child
        start = 0 if space is None else int(following[0, space])
        return Hotwords(start, following, bonus * lent, bonus * due, opens)


class HotwordScorer:
    """A `Scorer` of the attention and joint beams (tasks/hybrid/search.py)."""

    falls = False

    def __init__(self, words: Hotwords, utterances: int, beams: int, device: torch.device) -> None:
        self.following = torch.from_numpy(words.following).to(device)  # (S, V+1)
        self.lent, self.due = torch.from_numpy(words.lent).to(device), torch.from_numpy(words.due).to(device)
        self.opens = torch.from_numpy(words.opens).to(device)
        self.state = torch.full((utterances, beams), words.start, device=device)

    def scores(self) -> Tensor:
        """(B, W, V+1)"""
        due, lent = self.due[self.state].unsqueeze(-1), self.lent[self.state].unsqueeze(-1)
        return due * self.opens + self.lent[self.following[self.state]] - lent

    def advance(self, parents: Tensor, symbols: Tensor) -> None:
        self.state = self.following[self.state.gather(1, parents), symbols].long()

    def keep(self, utterances: Tensor) -> None:
        self.state = self.state[utterances]
