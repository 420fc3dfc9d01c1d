"""Against the formulas of Yao et al. 2024, §3.5, written out number by number."""

import math

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import nn

from auricle.core.config import TrainingConfig
from auricle.train.engine import Engine
from auricle.train.optim import allocate_moments, build_optimizer, load_moments, moment_shapes, moments
from auricle.train.run import Run
from auricle.train.scaled_adam import ScaledAdam
from auricle.train.sharded import load_optimizer
from tests.experiments import losses, run, tiny
from tests.train.test_recovery import assert_the_same

ALPHA, BETAS, EPS, ETA = 0.045, (0.9, 0.98), 1e-8, 0.1


class Naive:
    """ScaledAdam of one tensor, without limits on its scale."""

    def __init__(self, theta: torch.Tensor) -> None:
        self.theta, self.m, self.v, self.n, self.w, self.t = theta.clone(), 0 * theta, 0 * theta, 0.0, 0.0, 0

    def step(self, g: torch.Tensor, alpha: float) -> None:
        (beta1, beta2), theta = BETAS, self.theta
        self.t += 1
        r = float(theta.square().mean()) ** 0.5
        h = float((g * theta).sum())
        self.m, self.v = beta1 * self.m + (1 - beta1) * g, beta2 * self.v + (1 - beta2) * g * g
        self.n, self.w = beta1 * self.n + (1 - beta1) * h, beta2 * self.w + (1 - beta2) * h * h
        corrected = math.sqrt(1 - beta2**self.t) / (1 - beta1**self.t)
        within = -alpha * r * corrected * self.m / (self.v.sqrt() + EPS)
        self.theta = theta + within - ETA * alpha * corrected * self.n / (math.sqrt(self.w) + EPS) * theta


def parameter(*shape: int, size: float = 1.0) -> nn.Parameter:
    return nn.Parameter(size * torch.randn(*shape, dtype=torch.float64))


def test_steps_are_the_papers():
    torch.manual_seed(0)
    tensors = [parameter(5, 3), parameter(7, size=0.01), parameter(2, 3, 4, size=2.0)]
    naive = [Naive(tensor.detach()) for tensor in tensors]
    optimizer = ScaledAdam(tensors, betas=BETAS, eps=EPS)
    for step in range(12):
        optimizer.param_groups[0]["lr"] = alpha = ALPHA / (1 + step)
        for number, (tensor, one) in enumerate(zip(tensors, naive, strict=True)):
            if number == 1 and step < 3:  # a tensor that joins late counts its own steps
                tensor.grad = None
                continue
            tensor.grad = torch.randn_like(tensor)
            one.step(tensor.grad, alpha)
        optimizer.step()
        for tensor, one in zip(tensors, naive, strict=True):
            torch.testing.assert_close(tensor.detach(), one.theta, atol=1e-14, rtol=1e-12)


@pytest.mark.parametrize("factor", [0.05, 7.0])
def test_scaling_a_tensor_and_its_use_scales_its_path(factor):
    torch.manual_seed(0)
    first, x, target = parameter(4, 4, size=0.2), torch.randn(20, 4).double(), torch.randn(20, 4).double()
    second = nn.Parameter(factor * first.detach())
    for tensor, used in ((first, 1.0), (second, factor)):
        optimizer = ScaledAdam([tensor], lr=ALPHA, betas=BETAS)
        for _ in range(20):
            optimizer.zero_grad()
            (x @ (tensor / used) - target).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(second.detach(), factor * first.detach(), rtol=1e-5, atol=0)


def test_what_begins_as_zeros_moves_and_what_has_one_number_has_no_scale():
    zeros, one = nn.Parameter(torch.zeros(6).double()), nn.Parameter(torch.tensor([0.0]).double())
    optimizer = ScaledAdam([zeros, one], lr=ALPHA, betas=BETAS)
    zeros.grad, one.grad = torch.full_like(zeros, 2.0), torch.full_like(one, -3.0)
    optimizer.step()
    # The first step of Adam is its rate: √(1 - β₂) / (1 - β₁) · (1 - β₁) g / (√(1 - β₂) |g|) = sign(g).
    torch.testing.assert_close(zeros.detach(), torch.full_like(zeros, -ALPHA * 1e-5))
    torch.testing.assert_close(one.detach(), torch.full_like(one, ETA * ALPHA))


@pytest.mark.parametrize(("size", "sign"), [(1e-5, 1.0), (3.0, -1.0)])
def test_learning_the_scale_goes_to_its_limits_and_no_further(size, sign):
    tensor = nn.Parameter(torch.tensor([size, -size], dtype=torch.float64))
    optimizer = ScaledAdam([tensor], lr=ALPHA, betas=BETAS)
    tensor.grad = sign * 1000 * tensor.detach().sign()  # along the tensor itself
    optimizer.step()
    without_the_scale = (1 - sign * ALPHA) * torch.tensor([size, -size], dtype=torch.float64)
    torch.testing.assert_close(tensor.detach(), without_the_scale, rtol=1e-6, atol=0)


def test_decay_is_that_of_adamw():
    tensor = nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer = ScaledAdam([tensor], lr=0.1, betas=BETAS, weight_decay=0.5)
    tensor.grad = torch.zeros_like(tensor)
    optimizer.step()
    torch.testing.assert_close(tensor.detach(), torch.full_like(tensor, 0.95))


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.gain = nn.Linear(4, 3), nn.Parameter(torch.ones(()))

    def components(self):
        return {"layer": self.layer}

    def learning(self):
        return {"layer": list(self.named_parameters())}


def config(**keys) -> TrainingConfig:
    return TrainingConfig(max_steps=1, batch_seconds=1.0, optim="scaled_adam", **keys)


def stepped(model, optimizer, times: int) -> None:
    for _ in range(times):
        (model.gain * model.layer(torch.linspace(-1, 1, 8).view(2, 4))).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()


def test_moments_travel_by_name_and_go_on_to_the_bit(tmp_path):
    torch.manual_seed(0)
    model = Toy()
    optimizer = build_optimizer(model.learning(), config(learning_rate=ALPHA))
    stepped(model, optimizer, 3)
    kinds = {"step", "exp_avg", "exp_avg_sq"}
    of_tensors = kinds | {"scale_exp_avg", "scale_exp_avg_sq"}
    names = {"gain": kinds, "layer.weight": of_tensors, "layer.bias": of_tensors}
    assert set(moments(optimizer)) == {f"{kind}/{name}" for name, those in names.items() for kind in those}
    save_file(moments(optimizer), tmp_path / "moments.safetensors")
    again = Toy()
    again.load_state_dict(model.state_dict())
    resumed = build_optimizer(again.learning(), config(learning_rate=ALPHA))
    assert load_moments(resumed, load_file(tmp_path / "moments.safetensors")) == (3, 0)
    stepped(model, optimizer, 3)
    stepped(again, resumed, 3)
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
    for name, value in moments(optimizer).items():
        assert torch.equal(moments(resumed)[name], value)


@pytest.mark.parametrize("optim", ["adamw_torch", "scaled_adam"])
def test_moments_have_their_shapes_before_the_first_step_as_after_it(optim):
    model = Toy()
    settings = config().model_copy(update={"optim": optim})
    optimizer = build_optimizer(model.learning(), settings)
    allocate_moments(optimizer)
    before = {name: (value.shape, value.dtype, value.device) for name, value in moments(optimizer).items()}
    other = build_optimizer(model.learning(), settings)
    stepped(model, other, 1)
    assert {name: (value.shape, value.dtype, value.device) for name, value in moments(other).items()} == before
    for name, tensor in model.named_parameters():
        told = {f"{kind}/{name}": (one.shape, one.dtype) for kind, one in moment_shapes(optim, tensor).items()}
        assert told.items() <= {name: about[:2] for name, about in before.items()}.items()


def test_from_one_optimizer_to_the_other_goes_what_both_keep():
    model = Toy()
    scaled = build_optimizer(model.learning(), config())
    adam = build_optimizer(model.learning(), config().model_copy(update={"optim": "adamw_torch"}))
    stepped(model, scaled, 1)
    assert load_moments(adam, moments(scaled)) == (3, 0)
    assert {name.partition("/")[0] for name in moments(adam)} == {"step", "exp_avg", "exp_avg_sq"}
    assert load_moments(build_optimizer(model.learning(), config()), moments(adam)) == (1, 2)


def test_a_tensor_of_which_a_checkpoint_lacks_a_kind_starts_afresh(tmp_path):
    model = Toy()
    adam = build_optimizer(model.learning(), config().model_copy(update={"optim": "adamw_torch"}))
    stepped(model, adam, 2)
    save_file(moments(adam), tmp_path / "optimizer.safetensors")
    scaled = build_optimizer(model.learning(), config())
    assert load_optimizer(tmp_path, scaled, Engine(config(device="cpu"))) == (1, 2)
    steps = {name: float(value) for name, value in moments(scaled).items() if name.startswith("step/")}
    assert steps == {"step/gain": 2, "step/layer.weight": 0, "step/layer.bias": 0}
    assert not moments(scaled)["exp_avg/layer.weight"].any()


def test_shards_are_refused():
    with pytest.raises(ValidationError, match="optim is scaled_adam, which needs the size of whole tensors, and fsdp"):
        config(fsdp=True)


SETTINGS = {"optim": "scaled_adam", "learning_rate": ALPHA, "lr_scheduler_type": "eden", "warmup_steps": 3,
            "eden_steps": 10.0, "eden_epochs": 1.0, "max_steps": 7, "save_steps": None, "data": {"max_eval_samples": 1}}


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run without a stop: its home, and its events."""
    home = tmp_path_factory.mktemp("straight")
    return home, run(tiny(home, **SETTINGS))[1]


def test_a_run_that_stops_and_goes_on_is_the_uninterrupted_one_to_the_bit(tmp_path, straight, monkeypatch):
    home, events_of_straight = straight
    made, ends, told = [], [], []
    monkeypatch.setattr(Run, "stepped", lambda _: made.append(1))
    for stop_after in (3, 100):
        monkeypatch.setattr(Run, "stopping", lambda _, stop_after=stop_after: len(made) >= stop_after)
        outcome, events = run(tiny(tmp_path, manifest=home / "manifest", **SETTINGS))
        ends.append((outcome.reason, outcome.step))
        told += losses(events)
    assert ends == [("interrupted", 4), ("finished", 7)]
    assert told == losses(events_of_straight)
    assert_the_same(tmp_path / "run", home / "run")


def test_the_rate_of_a_run_rises_with_its_warm_up_and_falls_with_steps_and_epochs(straight):
    told = [event.values for event in straight[1] if event.kind == "train"]
    for number, values in enumerate(told):
        epochs = told[number - 1]["epoch"] if number else 0.0
        decay = ((number / 10) ** 2 + 1) ** -0.25 * (epochs**2 + 1) ** -0.25
        rise = min(1.0, 0.5 + 0.5 * (number + 1) / 3)
        assert values["learning_rate"] == pytest.approx(ALPHA * decay * rise)
    assert told[-2]["epoch"] > 0.3


def test_the_size_of_a_checkpoint_is_told_with_all_moments(straight):
    home, events = straight
    (newest,) = (home / "run" / "checkpoints").glob("step-*")
    tensors = [tensor for file in newest.glob("*.safetensors") for tensor in load_file(file).values()]
    told = next(event.values["checkpoint_bytes"] for event in events if event.kind == "derived")
    assert told == sum(tensor.nbytes for tensor in tensors)
