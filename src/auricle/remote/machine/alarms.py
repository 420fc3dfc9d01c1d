"""Alarms that are told once, again when they come back, and again where they last."""

from collections.abc import Callable, Mapping

REPEAT_SECONDS = 3600.0
CALM_SECONDS = 60.0
"""An alarm whose cause was gone for so long is a new one when it comes back."""
SHOWN = 5


class Alarms:
    """Those that hold, by what they are about."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._told: dict[str, float] = {}
        self._seen: dict[str, float] = {}
        self._words: dict[str, str] = {}

    def update(self, holding: Mapping[str, str], now: float) -> None:
        """`holding`: subject → sentence, of all that holds now. `now`: seconds of a clock that nobody sets."""
        for about in [about for about, seen in self._seen.items() if now - seen > CALM_SECONDS]:
            del self._told[about], self._seen[about]
        self._words = dict(holding)
        for about, sentence in holding.items():
            self._seen[about] = now
            if about not in self._told or now - self._told[about] >= REPEAT_SECONDS:
                self._told[about] = now
                self._tell(sentence)

    @property
    def shown(self) -> list[str]:
        """The newest few that hold, oldest first."""
        order = sorted(self._words, key=lambda about: self._told[about])
        return [self._words[about] for about in order][-SHOWN:]
