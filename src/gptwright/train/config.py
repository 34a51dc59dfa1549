"""Settings of a run: model, optimizer, schedule, training and data, in one file."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError
from torch import nn
from torch.optim import Optimizer

from gptwright.config.base import Config
from gptwright.config.slot import ComponentConfig, Slot
from gptwright.data.config import DataConfig
from gptwright.errors import ConfigError
from gptwright.model.config import ModelConfig
from gptwright.model.recompute import Recompute
from gptwright.ops.precision import Precision
from gptwright.optim.base import OptimizerMaker, Schedule
from gptwright.train.lora import LoraConfig
from gptwright.train.track.base import TRACKER

OPTIM = Slot("optim", package="gptwright.optim.optimizer", base="gptwright.optim.base:OptimizerMaker")
CALLBACK = Slot("callback", package="gptwright.train.callbacks", base="gptwright.train.callback:Callback")
SCHEDULE = Slot("schedule", package="gptwright.optim.schedule", base="gptwright.optim.base:Schedule")


class BatchRamp(Config):
    """Small steps first: the batch grows evenly to `tokens_per_step`, when gradients have become noisier than they are
    steep (McCandlish et al., 2018, https://arxiv.org/abs/1812.06162)."""

    start: PositiveInt
    """Tokens behind the first step, a multiple of `model.max_seq_len`."""
    steps: PositiveInt
    """Steps until `tokens_per_step` is reached."""


class LengthRamp(Config):
    """Short rows first: their length doubles, in equal parts of the ramp, to `model.max_seq_len`; tokens a step stay
    the same (Li et al., 2022, https://arxiv.org/abs/2108.06084)."""

    start: PositiveInt
    """Tokens of the first rows, a divisor of `model.max_seq_len`."""
    steps: PositiveInt
    """Steps until rows have their full length."""


class Average(Config):
    """Weights averaged over steps, for evaluation, samples and use; training itself does not see them."""

    over: Literal["ema", "tail"] = "ema"
    """`ema`: all steps, older ones less and less; `tail`: the last steps of the run, equally."""
    decay: float = Field(default=0.999, gt=0, lt=1)
    """`ema`: what is kept of the average at each step; early it is (1 + step) / (10 + step), where that is less."""
    fraction: float = Field(default=0.2, gt=0, le=1)
    """`tail`: the last part of the run's steps that is averaged; before it, weights are used as they are."""


class TrainConfig(Config):
    """How a run trains."""

    steps: PositiveInt = 1000
    """Optimizer steps."""
    tokens_per_step: PositiveInt = 8192
    """Tokens behind each optimizer step, a multiple of `model.max_seq_len`."""
    micro_batch: PositiveInt | None = None
    """Sequences worked on at once, a divisor of those of a step; gradients are accumulated to `tokens_per_step`.
    Default: at most 16384 tokens of them."""
    batch_ramp: BatchRamp | None = None
    """Smaller steps at the beginning."""
    length_ramp: LengthRamp | None = None
    """Shorter rows at the beginning."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Precision of matrix products; weights are kept in fp32. `auto` measures the machine and chooses."""
    compile: bool = False
    """Whether to run the model through torch.compile: seconds to minutes at the start, faster steps after."""
    gradient_checkpointing: Recompute = "none"
    """What is computed again in the backward pass instead of kept. `block` keeps only each layer's input (Chen et al.,
    2016, https://arxiv.org/abs/1604.06174): much less memory, about a third more work. `selective` keeps the products
    of matrices with weights and computes the rest again: less memory at little more work."""
    clip: NonNegativeFloat = 1.0
    """Largest norm of the gradient; 0 does not clip."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Weight of the uniform distribution in the training targets; validation is never smoothed."""
    z_loss: NonNegativeFloat = 0.0
    """Weight of the squared log of the softmax's normaliser in the training loss, which keeps logits from drifting
    (Chowdhery et al., 2022, https://arxiv.org/abs/2204.02311: 1e-4); validation has none."""
    average: Average | None = None
    """Evaluate and keep averaged weights."""
    freeze: list[str] = Field(default_factory=list)
    """Parameters that keep their values, by patterns of their names: `[token_embedding, layers.0, "*norm*"]`."""
    unfreeze: list[str] = Field(default_factory=list)
    """Parameters among those of `freeze` that train after all: with `freeze: ["*"]`, all that train."""
    skip_limit: PositiveInt = 5
    """Steps in a row that may be skipped because their loss or gradient is not finite. Then the run goes back to the
    last checkpoint and leaves out the batch with which it began; when that does not help either, it stops."""
    gradient_stats: bool = False
    """Whether to log the gradient's norm by part, and its noise scale where a step has several micro-batches."""
    log_every: PositiveInt = 10
    """Steps between lines of training metrics."""
    eval_every: NonNegativeInt = 250
    """Steps between evaluations of the whole validation split; 0 evaluates at the end only."""
    checkpoint_every: NonNegativeInt = 500
    """Steps between checkpoints; 0 saves at the end only."""
    keep_checkpoints: PositiveInt = 2
    """Latest checkpoints kept."""
    keep_best: bool = True
    """Whether to save, and keep besides, the checkpoint of the lowest validation loss."""
    sample_every: NonNegativeInt = 250
    """Steps between samples of text; 0 samples at the end only."""
    sample_tokens: NonNegativeInt = 200
    """Tokens of a sample; 0 takes none."""
    sample_prompt: str | None = None
    """Text that samples continue. Default: the beginning of the validation split."""
    trackers: list[Annotated[ComponentConfig, TRACKER]] = Field(
        default_factory=lambda: [TRACKER.default("tensorboard")()]
    )
    """Where metrics go besides the run folder's own files: `[tensorboard, wandb, mlflow]`, or your own
    `my_file:MyTracker`."""
    callbacks: list[Annotated[ComponentConfig, CALLBACK]] = Field(default_factory=list)
    """What else happens on the way: `[{type: early_stopping, patience: 3}]`, or your own `my_file:MyCallback`."""
    seed: NonNegativeInt = 0
    """Seed of weights, data order and dropout."""


class RunConfig(Config):
    """Everything that a run is made from."""

    model: ModelConfig
    """The model."""
    optim: Annotated[OptimizerMaker.Config, OPTIM] = Field(default_factory=OPTIM.default("adamw"))
    """The optimizer."""
    schedule: Annotated[ComponentConfig, SCHEDULE] = Field(default_factory=SCHEDULE.default("cosine"))
    """How the learning rate moves."""
    init_from: str | None = None
    """A run or checkpoint folder whose weights, model settings and tokenizer training begins with."""
    lora: LoraConfig | None = None
    """Train small matrices beside the linear layers, and keep these as they are."""
    train: TrainConfig = Field(default_factory=TrainConfig)
    """How the run trains."""
    data: DataConfig | None = None
    """What it trains on."""

    @model_validator(mode="after")
    def _check_fit(self) -> "RunConfig":
        details: list[InitErrorDetails] = [
            {"type": PydanticCustomError("fit", "{m}", {"m": sentence}), "loc": path, "input": None}
            for path, sentence in self._problems()
        ]
        if details:
            raise ValidationError.from_exception_data("RunConfig", details)
        return self

    def _problems(self) -> Iterator["Problem"]:
        if self.data is None:
            return  # nothing is going to be trained: sizes of steps do not matter
        train, context = self.train, self.model.max_seq_len
        yield from _not_whole_rows("tokens_per_step", ("train", "tokens_per_step"), train.tokens_per_step, context)
        if train.batch_ramp is not None:
            yield from _bad_batch_ramp(train.batch_ramp, train.tokens_per_step, context)
        if train.length_ramp is not None and context % train.length_ramp.start:
            yield (
                ("train", "length_ramp", "start"),
                f"start {train.length_ramp.start} must divide model.max_seq_len {context}, so that rows can be cut "
                f"evenly; {_nearest_divisor(context, train.length_ramp.start)} does",
            )
        if train.micro_batch is not None and self.rows_per_step % min(train.micro_batch, self.rows_per_step):
            yield (
                ("train", "micro_batch"),
                f"micro_batch {train.micro_batch} must divide the {self.rows_per_step} sequences of a step "
                f"(tokens_per_step {train.tokens_per_step} / max_seq_len {context}), so that all parts are equal; "
                f"{_nearest_divisor(self.rows_per_step, train.micro_batch)} does",
            )

    def require_data(self) -> DataConfig:
        """Return the data settings, which training needs."""
        if self.data is None:
            raise ConfigError(
                "data is not set, and training needs a source; write data: {source: my-text.txt} or give "
                "data.source=my-text.txt on the command line"
            )
        return self.data

    @property
    def optimizer_maker(self) -> OptimizerMaker:
        """What `optim` describes."""
        return self.optim.owner(self.optim)  # pyright: ignore[reportCallIssue, reportReturnType]

    def build_optimizer(self, model: nn.Module, precision: Precision) -> Optimizer:
        """Return the optimizer of ``model`` that `optim` describes."""
        return self.optimizer_maker.build(model, precision=precision)

    def build_schedule(self) -> Schedule:
        """Return the schedule over `train.steps` steps.

        Raises:
            ConfigError: its phases do not fit into them.
        """
        return self.schedule.owner(self.schedule, self.train.steps)  # pyright: ignore[reportCallIssue, reportReturnType]

    @property
    def rows_per_step(self) -> int:
        """Sequences behind each optimizer step."""
        return self.train.tokens_per_step // self.model.max_seq_len


Problem = tuple[tuple[str, ...], str]


def _not_whole_rows(name: str, path: tuple[str, ...], tokens: int, context: int) -> Iterator[Problem]:
    if tokens % context:
        near = max(1, round(tokens / context)) * context
        yield path, f"{name} {tokens} must be a multiple of model.max_seq_len {context}; {near} is the nearest"


def _bad_batch_ramp(ramp: BatchRamp, full: int, context: int) -> Iterator[Problem]:
    path = ("train", "batch_ramp", "start")
    yield from _not_whole_rows("start", path, ramp.start, context)
    if ramp.start > full:
        yield path, f"start {ramp.start} must be at most train.tokens_per_step {full}, to which the batch grows"


def _nearest_divisor(number: int, wanted: int) -> int:
    return min((n for n in range(1, number + 1) if number % n == 0), key=lambda n: (abs(n - wanted), n))
