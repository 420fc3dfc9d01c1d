"""A task and a model small enough to see through: the loop knows nothing else of either."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from auricle.core.config import TrainingConfig
from auricle.data.loader import TrainingSet
from auricle.data.plan import Budget
from auricle.tasks import Batch, Loss, Term
from auricle.train.stage import Stage


@dataclass(frozen=True, kw_only=True)
class NumberBatch(Batch):
    x: Tensor
    """(B, 3) float64"""


class NumberModel(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 1).double()

    def components(self):
        return {"layer": self.layer}

    def forward(self, x):
        return self.layer(x)


class NumberTask:
    """Σ over utterances of seconds · (output − 1)², divided by the seconds of the step."""

    def __init__(self, term_scale: float = 1.0) -> None:
        self.term_scale = term_scale

    def collate(self, utterances) -> NumberBatch:
        x = torch.tensor([[u.seconds, u.seconds**2, 1.0] for u in utterances], dtype=torch.float64).reshape(-1, 3)
        seconds = sum(u.seconds for u in utterances)
        return NumberBatch(
            ids=tuple(u.id for u in utterances),
            references=("",) * len(utterances),
            seconds=seconds,
            counts={"square": seconds},
            x=x,
        )

    def loss(self, model, batch) -> Loss:
        error = (model(batch.x)[:, 0] - 1) ** 2 * batch.x[:, 0]
        return Loss(terms={"square": Term(sum=error.sum() * self.term_scale, count=batch.seconds)})


@dataclass(frozen=True)
class Number:
    id: str
    seconds: float


class NumberAssembly:
    """What a stage needs of a model and its task."""

    task = NumberTask()


class NumberSet(TrainingSet):
    """Utterances that are numbers of seconds; nothing is read from disk."""

    def __init__(self, seconds, budget: Budget, seed: int = 1) -> None:
        self.rows = type(
            "Rows",
            (),
            {
                "seconds": np.asarray(seconds, np.float64),
                "sizes": (len(seconds),),
                "groups": None,
                "ids": [],
                "__len__": lambda _: len(seconds),
            },
        )()
        super().__init__(self.rows, collate=NumberTask().collate, sample_rate=1, budget=budget, seed=seed)

    def __getitem__(self, place):
        return self.collate([Number(f"n{row}", float(self.rows.seconds[row])) for row in place.rows])


def number_stage(seconds, budget: Budget, **training) -> Stage:
    settings = {
        "max_steps": 6,
        "batch_seconds": 10.0,
        "dataloader_num_workers": 0,
        "lr_scheduler_type": "constant_with_warmup",
        "logging_steps": 1,
        "save_steps": None,
        "save_minutes": None,
        "device": "cpu",
        "learning_rate": 0.05,
    }
    config = TrainingConfig(**{**settings, **training})
    data = NumberSet(seconds, budget, config.seed)
    return Stage(name="main", number=0, config=config, assembly=NumberAssembly(), data=data, total_steps=6)
