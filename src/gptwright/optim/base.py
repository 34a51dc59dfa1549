"""The two contracts of this floor: what makes an optimizer for a model, and what moves its learning rate."""

from abc import abstractmethod
from typing import Annotated, Any, ClassVar

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PlainSerializer,
    PositiveFloat,
    Strict,
    model_validator,
)
from torch import nn
from torch.optim import Optimizer

from gptwright.config.slot import Component, ComponentConfig
from gptwright.errors import ConfigError
from gptwright.ops.precision import Precision
from gptwright.optim.groups import GroupRule, freeze, split
from gptwright.optim.roles import Roles, roles

Beta = Annotated[float, Field(ge=0, lt=1)]
"""How much of a running average is kept each step; 0.9 remembers about 10 steps."""
# YAML has lists, not tuples: a list is read, and written back.
Betas = Annotated[tuple[Beta, Beta], Strict(False), PlainSerializer(list, return_type=list[float])]
"""The two betas of Adam: of the gradient's average and of its square's."""
Fraction = Annotated[float, Field(ge=0, le=1)]


class OptimizerMaker(Component):
    """Settings of an optimizer, and how to build it for a model."""

    class Config(ComponentConfig):
        lr: PositiveFloat = 1e-3
        """Peak learning rate; the schedule multiplies it by a number between 0 and 1 at each step."""
        weight_decay: NonNegativeFloat = 0.1
        """Decoupled decay of matrices, per unit of learning rate: a step shrinks them by lr * weight_decay.
        Embeddings, norms and biases are never decayed."""
        groups: list[GroupRule] = Field(default_factory=list)
        """Other learning rates, decay or freezing for the parameters that patterns name; later rules win:
        `[{match: layers.0, lr_scale: 0.1}, {match: "*norm*", freeze: true}]`."""

    def __init__(self, config: Any, ctx: Any = None) -> None:
        del ctx
        self.config = config

    def build(self, model: nn.Module, *, precision: Precision | None = None) -> Optimizer:
        """Return an optimizer for the model's trainable parameters, having frozen those that `groups` freezes.

        Each of its ``param_groups`` carries ``name`` and ``initial_lr``; its state is tensors and plain
        numbers, and loading it continues bit for bit. ``precision`` is the one the run computes in; None
        asks the machine.

        Raises:
            ConfigError: the model has no trainable parameter, or a pattern of `groups` names none.
        """
        self.freeze(model)
        return self.optimizer(split(self.param_groups(roles(model), precision), model, self.config.groups))

    def freeze(self, model: nn.Module) -> None:
        """Take from training what `groups` freezes, as `build` does too."""
        freeze(model, self.config.groups)

    def param_groups(self, found: Roles, precision: Precision | None) -> list[dict[str, Any]]:
        """Return the parameters in groups, dicts with name, params, lr and weight_decay: here, with decay and without.

        A group may be empty; what else it carries, the optimizer finds in it.
        """
        del precision
        lr, decay = self.config.lr, self.config.weight_decay
        decayed, kept = [*found.matrices, *found.others, *found.head], [*found.embeddings, *found.vectors]
        return [
            {"name": "decay", "params": decayed, "lr": lr, "weight_decay": decay},
            {"name": "no_decay", "params": kept, "lr": lr, "weight_decay": 0.0},
        ]

    @abstractmethod
    def optimizer(self, groups: list[dict[str, Any]]) -> Optimizer:
        """Return the optimizer of these parameter groups, none of them empty."""


class Schedule(Component):
    """Multiplier of every group's ``initial_lr``: a pure function of the step, so resuming needs no state."""

    def __init__(self, config: Any, total_steps: int) -> None:
        if total_steps < 1:
            raise ConfigError(f"a schedule over {total_steps} steps makes no sense; set train.steps to 1 or more")
        self.config = config
        self.total_steps = total_steps

    @abstractmethod
    def scale(self, step: int) -> float:
        """Return the multiplier of optimizer step ``step``, counted from 0; past the end, the last value."""

    def apply(self, optimizer: Optimizer, step: int) -> float:
        """Set each group's ``lr`` for this step and return the multiplier."""
        scale = self.scale(step)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * scale
        return scale


class WarmupSchedule(Schedule):
    """A schedule that first climbs linearly: step s of w warm-up steps has the multiplier (s + 1) / (w +
    1)."""

    default_warmup: ClassVar[float] = 0.05
    """Fraction of the run when neither setting is given."""

    class Config(ComponentConfig):
        warmup_steps: NonNegativeInt | None = None
        """Optimizer steps of linear warm-up; null leaves it to `warmup_fraction`."""
        warmup_fraction: Fraction | None = None
        """Warm-up as a fraction of the run's steps; both null means 0.05 (0 for `constant`)."""

        @model_validator(mode="after")
        def _one_way(self) -> "WarmupSchedule.Config":
            steps, fraction = self.warmup_steps, self.warmup_fraction
            if steps is not None and fraction is not None:
                raise ValueError(
                    f"warmup_steps {steps} and warmup_fraction {fraction} both say how long the warm-up is; "
                    "set one of them to null"
                )
            return self

    def __init__(self, config: Any, total_steps: int) -> None:
        super().__init__(config, total_steps)
        self.warmup = self._warmup_steps()

    def _warmup_steps(self) -> int:
        steps, fraction = self.config.warmup_steps, self.config.warmup_fraction
        if steps is None:
            return round((self.default_warmup if fraction is None else fraction) * self.total_steps)
        if steps > self.total_steps:
            raise ConfigError(
                f"schedule.warmup_steps is {steps} but the run has {self.total_steps} steps: a warm-up must "
                "fit into the run; lower schedule.warmup_steps, or raise train.steps"
            )
        return steps

    def scale(self, step: int) -> float:
        """Return the multiplier of step ``step``: the climb, then `after_warmup`."""
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        return self.after_warmup(min(step, self.total_steps))

    def progress(self, step: int) -> float:
        """Return 0 at the end of the warm-up and 1 when all steps are done."""
        return min(1.0, (step - self.warmup) / max(1, self.total_steps - self.warmup))

    @abstractmethod
    def after_warmup(self, step: int) -> float:
        """Return the multiplier of a step from the end of the warm-up on."""
