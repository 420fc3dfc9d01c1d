"""The frame of an experiment: what the YAML says after Hydra composed it, as frozen values.

    ExperimentConfig
    ├── model        a Block, decoded by models/KIND/config.py
    ├── task         a Block, decoded by tasks/KIND/config.py
    ├── data         DataConfig
    │   ├── datasets     name → DatasetConfig (a prepared manifest, or a source Block)
    │   └── augment      AugmentConfig
    ├── training     TrainingConfig
    ├── stages       name → keys of `training` that differ in that stage, and perhaps a task or an augment of its own
    │                (none: `main`)
    ├── evaluation   EvaluationConfig
    ├── mirror       MirrorConfig
    └── remote       RemoteConfig

Training keys use the vocabulary of Hugging Face's TrainingArguments wherever the concept is the same.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SerializeAsAny, field_validator, model_validator

from auricle.core.errors import nearest
from auricle.core.extents import Extent, Unit
from auricle.core.frame import Block, Frame
from auricle.core.text import NORMALIZERS, unknown_part

Positive = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[int, Field(ge=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]


class NoiseConfig(Frame):
    """Background noise at a drawn signal-to-noise ratio."""

    folder: str
    """A folder of noise recordings (wav, flac, ogg, mp3), searched with its subfolders."""
    probability: Fraction = 0.5
    snr_db: tuple[float, float] = (5.0, 25.0)


class SpecAugmentConfig(Frame):
    """Time and frequency masks filled with the utterance's mean (Park et al. 2019, without the time warp)."""

    frequency_masks: NonNegative = 2
    frequency_width: NonNegative = 15
    """Widest mask in mel bins."""
    time_masks: NonNegative = 2
    time_width: NonNegative = 40
    """Widest mask in feature frames …"""
    time_fraction: Fraction = 0.2
    """… and as a fraction of the utterance."""


class TextNoiseConfig(Frame):
    """How a row without audio is garbled before a model reads it: as the frames of a recogniser would spell it.

    The probabilities are the worst ones; how much of them a row gets is drawn as well.
    """

    stretch: tuple[Positive, Positive] = (1, 3)
    """How often a character is written, from and to; sounds last for several frames."""
    delete: Fraction = 0.05
    """Probability that a character is left out …"""
    substitute: Fraction = 0.05
    """… that it is another one of the same row …"""
    insert: Fraction = 0.05
    """… and that one of the same row follows it."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.stretch[0] > self.stretch[1]:
            raise ValueError(f"stretch is {list(self.stretch)}; expected [fewest, most]")
        return self


class AugmentConfig(Frame):
    """Augmentation of training rows; evaluation never sees it."""

    speeds: list[PositiveFloat] = []
    """Speed factors to draw from, by resampling (Ko et al. 2015: 0.9, 1.0, 1.1)."""
    gain_db: tuple[float, float] | None = None
    noise: NoiseConfig | None = None
    spec_augment: SpecAugmentConfig | None = None
    text: TextNoiseConfig | None = None
    """Of rows without audio."""


class DatasetConfig(Frame):
    """One corpus: either a prepared manifest or a source that is prepared at first use."""

    manifest: str | None = None
    """A folder that `auricle data prepare` made."""
    source: SerializeAsAny[Block] | None = None
    weight: PositiveFloat | None = None
    """Share of the mixture relative to the other weights; without weights each utterance counts once an epoch."""
    train_split: str | None = "train"
    eval_split: str | None = "dev"
    """Evaluated while training, and chooses the best checkpoint."""
    instruction: str | None = None
    """What a conversation asks about these rows: a name in the task's `instructions`; None is the task's own."""

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.manifest is None) == (self.source is None):
            raise ValueError("give either 'manifest' (a prepared folder) or 'source' (a block with 'kind')")
        return self


class DataConfig(Frame):
    """What is trained and evaluated on, and which rows of it are used."""

    datasets: dict[str, DatasetConfig] = Field(min_length=1)
    prepared_dir: str = "data"
    """Where sources of this experiment are prepared."""
    max_train_samples: Positive | None = None
    """At most this many utterances of each dataset's training split, chosen by the seed."""
    max_eval_samples: Positive | None = None
    min_seconds: NonNegativeFloat = 0.1
    max_seconds: PositiveFloat = 30.0
    empty_transcript: Literal["reject", "keep"] = "reject"
    max_rejected: Fraction = 0.01
    """Stop when more than this fraction of the rows is damaged."""
    bucket_window: Positive = 20_000
    """Utterances that are shuffled, then sorted by length, together."""
    augment: AugmentConfig = AugmentConfig()


class TrainingConfig(Frame):
    """How a stage learns, for how long, and what it writes."""

    run_name: str | None = None
    output_dir: str | None = None
    """The run folder; without it outputs/<run_name>."""
    seed: int = 42

    datasets: list[str] | None = None
    """Names in data.datasets that this stage trains on and is evaluated with; None is all of them."""
    trainable: list[str] | None = None
    """Components that learn in this stage; None is all of them. The others are frozen, in eval mode."""
    pretrained_model_path: str | None = None
    """Weights-only start from a run, checkpoint or model folder."""
    start_from: Literal["last", "best"] = "last"
    """Of the stages before: a stage begins with the weights and moments of their last step, or of their best one."""

    max_steps: Positive | None = None
    """Counts within a stage. Of several ends, the first that is reached ends the stage."""
    num_train_epochs: PositiveFloat | None = None
    max_audio_hours: PositiveFloat | None = None
    max_wall_hours: PositiveFloat | None = None

    per_device_train_batch_size: Positive | None = None
    """At most this many utterances a micro-batch …"""
    batch_seconds: PositiveFloat | None = None
    """… and at most this much audio, padding included; at least one of the two."""
    effective_batch_size: Positive | None = None
    """Utterances a step over all ranks; accumulation is derived from it."""
    effective_batch_seconds: PositiveFloat | None = None
    gradient_accumulation_steps: Positive = 1
    """Used where no effective batch is given: fixes it at the first start's world size."""
    per_device_eval_batch_size: Positive | None = None
    dataloader_num_workers: NonNegative = 2

    learning_rate: PositiveFloat = 1e-3
    learning_rates: dict[str, PositiveFloat] = {}
    """Component → its own rate."""
    lr_scheduler_type: Literal[
        "cosine", "cosine_with_min_lr", "linear", "constant_with_warmup", "one_cycle", "eden"] = "cosine"
    min_lr_rate: Fraction = 0.1
    """Floor of cosine_with_min_lr, as a fraction of the rate."""
    eden_steps: PositiveFloat = 7500.0
    """After about so many steps eden lowers the rate markedly …"""
    eden_epochs: PositiveFloat = 3.5
    """… and once more after so many epochs."""
    warmup_steps: NonNegative = 0
    warmup_ratio: Fraction = 0.0
    """Warm-up as a fraction of the stage, where warmup_steps is 0."""
    optim: Literal["adamw_torch", "scaled_adam"] = "adamw_torch"
    """The rates of scaled_adam are relative to the size of what it changes, so larger: 0.045 in its paper."""
    weight_decay: NonNegativeFloat = 0.01
    """Not applied to norms, biases and scalars."""
    adam_beta1: Fraction = 0.9
    adam_beta2: Fraction = 0.98
    adam_epsilon: PositiveFloat = 1e-8
    max_grad_norm: PositiveFloat = 1.0

    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    bf16: bool | None = None
    """bf16 autocast over fp32 weights; None is: on where the GPU supports it."""
    torch_compile: bool = False

    logging_steps: Positive = 25
    eval_steps: Positive | None = None
    """None evaluates at the end of the stage only."""
    eval_max_seconds: PositiveFloat | None = None
    """Time box of an evaluation during training: chooses once a seeded subset; the last one is always complete."""
    metric_for_best_model: str | None = None
    """None is the task's first metric. Lower is better."""
    save_steps: Positive | None = 500
    save_minutes: PositiveFloat | None = 5.0
    save_total_limit: Positive = 2
    """Newest checkpoints kept, beside the best and the newest one on a mirror."""
    save_keep_every: Positive | None = None
    """Checkpoints whose step is a multiple of this are never removed."""
    resume_from_checkpoint: str | None = None
    """A checkpoint folder; None resumes from the newest one of the run folder."""
    max_bad_steps: Positive = 3
    """Steps in a row whose loss or gradient is not finite, before training returns to the last good checkpoint."""
    hang_seconds: PositiveFloat = 300.0
    """A step that takes longer than this, and than ten median steps, ends the process so that it can be resumed."""
    cache_frozen: bool = False
    """Keeps on disk what a frozen encoder makes of each utterance, where nothing random reaches it."""
    fsdp: bool = False
    """Shards parameters, gradients and moments over the ranks (FSDP2) in the place of copying them (DDP)."""
    hub_model_id: str | None = None
    """Hugging Face hub repository that gets the best model (never optimizer states), as USER/NAME."""
    report_to: list[Literal["trackio", "wandb", "tensorboard"]] = []
    price_per_hour: NonNegativeFloat | None = None
    """What the machine costs, for the cost figures."""
    ddp_timeout: PositiveFloat = 1800.0
    """Seconds that ranks wait for each other in a collective operation."""

    @model_validator(mode="after")
    def _has_an_end_and_a_batch(self) -> Self:
        if not self.extents:
            raise ValueError("no end: give max_steps, num_train_epochs, max_audio_hours or max_wall_hours")
        if self.per_device_train_batch_size is None and self.batch_seconds is None:
            raise ValueError("no batch: give batch_seconds (audio a micro-batch) or per_device_train_batch_size")
        return self

    @model_validator(mode="after")
    def _optimizer_has_whole_tensors(self) -> Self:
        if self.fsdp and self.optim == "scaled_adam":
            raise ValueError("optim is scaled_adam, which needs the size of whole tensors, and fsdp shards them; use "
                             "adamw_torch, or leave fsdp out")
        return self

    @property
    def extents(self) -> tuple[Extent, ...]:
        """The ends of the stage; the first that is reached counts."""
        given: dict[Unit, float | None] = {"steps": self.max_steps, "epochs": self.num_train_epochs,
                                           "audio_hours": self.max_audio_hours, "wall_hours": self.max_wall_hours}
        return tuple(Extent(amount, unit) for unit, amount in given.items() if amount is not None)


ALL = "all"
"""In the place of a decoder's name."""


class EvaluationConfig(Frame):
    """How hypotheses are judged; recorded beside each number."""

    normalizer: str = "basic"
    decoder: str = ""
    """Empty is the task's default decoder. `all` is that one, and beside it every other one where evaluations are
    complete, at the end of a stage."""

    @field_validator("normalizer")
    @classmethod
    def _known(cls, name: str) -> str:
        if (part := unknown_part(name)) is not None:
            raise ValueError(f"no such normaliser '{part}'; {nearest(part, NORMALIZERS)}")
        return name


class MirrorConfig(Frame):
    """Where verified copies of the run go while it trains. Only what is verified there counts as safe."""

    targets: list[str] = []
    """A folder, ssh://user@host:port/folder, or anything fsspec knows (s3://…, gs://…, sftp://…, hf://…)."""
    keep: Positive = 2
    """Newest checkpoints kept at each target, beside the best."""


class RemoteConfig(Frame):
    """The machine that `auricle remote` runs this on. Training itself reads none of it."""

    folder: str | None = None
    """Where the project lies there; None is /workspace/PROJECT, or ~/PROJECT where there is no /workspace."""
    torch: str | None = None
    """What pip installs for torch there, as "torch==2.13.0 --index-url URL"; None chooses the build by the driver."""
    extras: list[str] = []
    """Extras of Auricle to install there, as [synth, wandb]."""
    system_packages: list[str] = ["tmux", "rsync", "git"]
    """Debian packages to install there where they are missing and one may."""
    environment: dict[str, str] = {
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
        "TOKENIZERS_PARALLELISM": "false",
    }
    """Variables of the run there; values that are secret belong in `secrets`."""
    secrets: list[str] = ["HF_TOKEN", "WANDB_API_KEY", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]
    """Variables that are handed from here to the run, where they are set: never written down on either side."""
    max_cost: PositiveFloat | None = None
    """In the unit of training.price_per_hour, from when the machine was rented or first started on. At this much the
    run is saved and mirrored, and on_limit follows."""
    max_hours: PositiveFloat | None = None
    """The same after so many hours."""
    idle_minutes: PositiveFloat | None = 30.0
    """The same after so long without training. None: never."""
    on_limit: Literal["stop", "release", "keep"] = "stop"
    """What becomes of the machine then: stopped with its disk kept, released with its disk deleted, or kept on."""


class ExperimentConfig(Frame):
    """One experiment."""

    model: SerializeAsAny[Block]
    task: SerializeAsAny[Block]
    data: DataConfig
    training: TrainingConfig
    stages: dict[str, dict[str, Any]] = {}
    """Stage name → keys of `training` that differ there, in order. A key `task` is a task of the stage's own, a key
    `augment` its own augmentation in the place of data.augment."""
    evaluation: EvaluationConfig = EvaluationConfig()
    mirror: MirrorConfig = MirrorConfig()
    remote: RemoteConfig = RemoteConfig()

    @model_validator(mode="after")
    def _stages_decode(self) -> Self:
        for name, training in self.stage_configs().items():
            self.stage_augment(name)
            for dataset in training.datasets or ():
                if dataset not in self.data.datasets:
                    raise ValueError(f"stage {name}: no data set '{dataset}'; {nearest(dataset, self.data.datasets)}")
        return self

    def stage_configs(self) -> dict[str, TrainingConfig]:
        """Stage name → its full training configuration; without `stages` there is one, `main`."""
        if not self.stages:
            return {"main": self.training}
        base = self.training.model_dump()
        return {name: TrainingConfig.model_validate({**base, **training_keys(changes)})
                for name, changes in self.stages.items()}

    def stage_task(self, stage: str) -> Block:
        """The task that a stage learns: its own, or the experiment's."""
        return self.stages.get(stage, {}).get(TASK, self.task)


    def stage_augment(self, stage: str) -> AugmentConfig:
        """How a stage augments: in its own way, or as the experiment does."""
        own = self.stages.get(stage, {}).get(AUGMENT)
        return self.data.augment if own is None else AugmentConfig.model_validate_json(json.dumps(own))


TASK, AUGMENT = "task", "augment"
"""What a stage may have of its own beside keys of `training`."""


def training_keys(changes: Mapping[str, Any]) -> dict[str, Any]:
    """What a stage changes of `training`."""
    return {key: value for key, value in changes.items() if key not in (TASK, AUGMENT)}
