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
from gptwright.ops.precision import Precision
from gptwright.optim.base import OptimizerMaker, Schedule

OPTIM = Slot("optim", package="gptwright.optim.optimizer", base="gptwright.optim.base:OptimizerMaker")
SCHEDULE = Slot("schedule", package="gptwright.optim.schedule", base="gptwright.optim.base:Schedule")


class TrainConfig(Config):
    """How a run trains."""

    steps: PositiveInt = 1000
    """Optimizer steps."""
    tokens_per_step: PositiveInt = 8192
    """Tokens behind each optimizer step, a multiple of `model.max_seq_len`."""
    micro_batch: PositiveInt | None = None
    """Sequences worked on at once; gradients are accumulated to `tokens_per_step`. Default: 16384 tokens of them."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Precision of matrix products; weights are kept in fp32. `auto` measures the machine and chooses."""
    compile: bool = False
    """Whether to run the model through torch.compile: seconds to minutes at the start, faster steps after."""
    gradient_checkpointing: bool = False
    """Whether to keep only each layer's input and compute the rest again in the backward pass (Chen et al., 2016,
    https://arxiv.org/abs/1604.06174): much less memory, about a third more work."""
    clip: NonNegativeFloat = 1.0
    """Largest norm of the gradient; 0 does not clip."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Weight of the uniform distribution in the training targets; validation is never smoothed."""
    freeze: list[str] = Field(default_factory=list)
    """Parameters that keep their values, by patterns of their names: `[token_embedding, layers.0, "*norm*"]`."""
    unfreeze: list[str] = Field(default_factory=list)
    """Parameters among those of `freeze` that train after all: with `freeze: ["*"]`, all that train."""
    log_every: PositiveInt = 10
    """Steps between lines of training metrics."""
    eval_every: NonNegativeInt = 250
    """Steps between evaluations of the whole validation split; 0 evaluates at the end only."""
    checkpoint_every: NonNegativeInt = 500
    """Steps between checkpoints; 0 saves at the end only."""
    keep_checkpoints: PositiveInt = 2
    """Latest checkpoints kept."""
    sample_every: NonNegativeInt = 250
    """Steps between samples of text; 0 samples at the end only."""
    sample_tokens: NonNegativeInt = 200
    """Tokens of a sample; 0 takes none."""
    sample_prompt: str | None = None
    """Text that samples continue. Default: the beginning of the validation split."""
    trackers: list[Literal["tensorboard", "wandb", "mlflow"]] = Field(default_factory=lambda: ["tensorboard"])
    """Where metrics go besides the run folder's own files."""
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

    def _problems(self) -> Iterator[tuple[tuple[str, ...], str]]:
        if self.data is None:
            return  # nothing is going to be trained: sizes of steps do not matter
        tokens, context = self.train.tokens_per_step, self.model.max_seq_len
        if tokens % context:
            near = max(1, round(tokens / context)) * context
            yield (
                ("train", "tokens_per_step"),
                f"tokens_per_step {tokens} must be a multiple of model.max_seq_len {context}; {near} is the nearest",
            )

    def require_data(self) -> DataConfig:
        """Return the data settings, which training needs."""
        if self.data is None:
            raise ConfigError(
                "data is not set, and training needs a source; write data: {source: my-text.txt} or give "
                "data.source=my-text.txt on the command line"
            )
        return self.data

    def build_optimizer(self, model: nn.Module, precision: Precision) -> Optimizer:
        """Return the optimizer of ``model`` that `optim` describes."""
        maker = self.optim.owner(self.optim)  # pyright: ignore[reportCallIssue]
        return maker.build(model, precision=precision)  # pyright: ignore[reportAttributeAccessIssue]

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
