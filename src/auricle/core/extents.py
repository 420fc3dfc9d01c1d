"""An amount of training in one unit, and the one function that answers "is it time?"."""

from dataclasses import dataclass, replace
from typing import Literal

Unit = Literal["steps", "epochs", "audio_hours", "wall_hours"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a stage has come. `steps` and the rest count within the stage; `run_steps` over the whole run."""

    steps: int = 0
    epochs: float = 0.0
    audio_hours: float = 0.0
    wall_hours: float = 0.0
    run_steps: int = 0

    def after_step(self, *, epochs: float, audio_hours: float, wall_hours: float) -> "Progress":
        return replace(
            self,
            steps=self.steps + 1,
            run_steps=self.run_steps + 1,
            epochs=epochs,
            audio_hours=self.audio_hours + audio_hours,
            wall_hours=wall_hours,
        )


@dataclass(frozen=True, slots=True)
class Extent:
    """`Extent(500, "steps")`. The fraction done drives the schedules; only wall clock is not reproducible."""

    amount: float
    unit: Unit

    def __post_init__(self) -> None:
        if not self.amount > 0:
            raise ValueError(f"an extent is positive, got {self.amount} {self.unit}")

    def fraction(self, progress: Progress) -> float:
        """0 at the start, 1 at the end, never more."""
        return min(1.0, getattr(progress, self.unit) / self.amount)

    def reached(self, progress: Progress) -> bool:
        return getattr(progress, self.unit) >= self.amount

    @property
    def reproducible(self) -> bool:
        return self.unit != "wall_hours"

    def __str__(self) -> str:
        return f"{self.amount:g} {self.unit.replace('_', ' ')}"


def due(step: int, every: int | None) -> bool:
    """True after step `every`, 2·`every`, …; never when `every` is None or 0."""
    return bool(every) and step > 0 and step % every == 0
