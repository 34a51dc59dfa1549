"""Callbacks: code of yours that a run calls at certain moments.

    class Shout(gptwright.train.callback.Callback):
        class Config(ComponentConfig):
            word: str = "saved"
            'What to shout.'

        def on_checkpoint(self, run, folder):
            print(self.config.word, folder)

`train.callbacks: [{type: my_file:Shout, word: there}]` calls it. Every method may be left out. A callback looks at the
run and may ask it to stop; an error that it raises ends the run, whose last checkpoint stands.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from gptwright.config.slot import Component, ComponentConfig

if TYPE_CHECKING:
    from gptwright.model.gpt import GPT
    from gptwright.train.config import RunConfig
    from gptwright.train.result import TrainResult
    from gptwright.train.step import StepResult


class Run(Protocol):
    """What a callback sees of a run."""

    config: "RunConfig"
    """The settings, complete."""

    @property
    def model(self) -> "GPT":
        """The model, its weights in fp32."""
        ...

    @property
    def step(self) -> int:
        """Optimizer steps taken."""
        ...

    @property
    def tokens(self) -> int:
        """Tokens learnt from."""
        ...

    @property
    def path(self) -> Path:
        """The run folder."""
        ...

    def stop(self, reason: str) -> None:
        """End the run after this step, as a finished one; ``reason`` is shown and kept in `summary.json`."""

    def say(self, text: str) -> None:
        """Show a line to the person at the terminal."""


class Callback(Component):
    """Does something at certain moments of a run; this one does nothing."""

    class Config(ComponentConfig):
        """Settings of a callback."""

    def __init__(self, config: Any, ctx: Any = None) -> None:
        del ctx
        self.config = config

    def on_start(self, run: Run) -> None:
        """Do what is due before the first step, also of a run that goes on."""

    def on_step(self, run: Run, result: "StepResult") -> None:
        """Do what is due after each step; weights and optimizer have moved, unless ``result.skipped``."""

    def on_log(self, run: Run, row: Mapping[str, Any]) -> None:
        """Do what is due with a training line, every `train.log_every` steps."""

    def on_evaluation(self, run: Run, row: Mapping[str, Any]) -> None:
        """Do what is due after validation: ``row`` has step, tokens, train_seconds, val_loss, val_bits_per_byte."""

    def on_sample(self, run: Run, text: str) -> None:
        """Do what is due with a sample of text."""

    def on_checkpoint(self, run: Run, folder: Path) -> None:
        """Do what is due when a checkpoint has been asked for; it is complete once ``folder`` exists."""

    def on_end(self, run: Run, result: "TrainResult") -> None:
        """Do what is due when the run ends: finished, stopped or interrupted."""

    def state(self) -> dict[str, Any]:
        """Return what must survive an interruption, as plain data: it is kept in checkpoints."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` returned when the checkpoint was written."""
