"""What training moves: weights, optimizer, averages, counters; saved whole, and restored whole."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from gptwright.errors import CheckpointError
from gptwright.model.batch import Batch
from gptwright.model.gpt import GPT
from gptwright.train.average import AveragedWeights
from gptwright.train.checkpoint import Checkpoint
from gptwright.train.contents import Contents, contents_of
from gptwright.train.guard import Guard
from gptwright.train.plan import Plan, Portion
from gptwright.train.step import Stepper, StepResult

if TYPE_CHECKING:
    from gptwright.train.setup import Setup


class Work:
    """A run at some step: all that a checkpoint holds of it."""

    def __init__(self, setup: "Setup", model: GPT) -> None:
        config, self._setup, self.model = setup.config, setup, model
        optimizer = config.build_optimizer(model, setup.precision)
        self.stepper = Stepper(model, optimizer, config.build_schedule(), config.train, setup.precision)
        self.average = AveragedWeights(config.train.average, model, config.train.steps)
        self.plan = Plan(config)
        self.guard = Guard(config.train.skip_limit, setup.precision)
        self.step, self.tokens, self.seconds, self.rollbacks = 0, 0, 0.0, 0
        self.best: tuple[int, float] | None = None
        """The step with the lowest validation loss so far, and that loss."""

    def learn(self, batch: Batch, portion: Portion) -> StepResult:
        """Take one optimizer step on ``batch``, the rows of ``portion``."""
        self.stepper.cut = self._setup.config.model.max_seq_len // portion.length
        result = self.stepper.step(self.step, *batch.cut(portion.length))
        self.step += 1
        self.tokens += result.tokens
        if not result.skipped:
            self.average.update(self.step)
        return result

    @contextmanager
    def evaluating(self) -> Iterator[GPT]:
        """Yield the model as it is to be judged: averaged where the run averages, in the run's precision."""
        with self.average.in_place():
            self.stepper.working.refresh()
            yield self.stepper.working.model

    def note_score(self, loss: float) -> bool:
        """Take note of the validation loss at this step; say whether it is the lowest so far."""
        if not math.isfinite(loss) or (self.best is not None and loss >= self.best[1]):
            return False
        self.best = (self.step, loss)
        return True

    def contents(self, callbacks: list[dict[str, Any]], config: str) -> Contents:
        """Return what a checkpoint holds now; ``config`` is the text of the settings."""
        setup = self._setup
        state = {
            "step": self.step,
            "tokens": self.tokens,
            "train_seconds": self.seconds,
            "rollbacks": self.rollbacks,
            "best": self.best,
            "plan": self.plan.state(self.step),
            "guard": self.guard.state(),
            "callbacks": callbacks,
            "scaler": self.stepper.scaler.state_dict(),
            "precision": {"name": setup.precision.name, "float32_matmul": setup.precision.float32_matmul},
            "data": setup.data.prepared.fingerprint,
            "vocab_size": setup.data.tokenizer.vocab_size,
        }
        return contents_of(
            self.model,
            self.stepper.optimizer,
            self.average.tensors(),
            state,
            texts={"config.yaml": config},
            folders=(setup.data.prepared.tokenizer_folder,),
        )

    def restore(self, found: Checkpoint) -> Mapping[str, Any]:
        """Go on from a checkpoint; return its plain part.

        Raises:
            CheckpointError: it does not fit, or is of an earlier version.
        """
        state, setup = found.state(), self._setup
        if "plan" not in state:
            raise CheckpointError(
                f"checkpoint {found.folder} was written by an earlier version, which took the text in another order, "
                "so it cannot be continued exactly; keep its weights in a new run with "
                f"init_from={found.folder.parents[1]}"
            )
        found.restore_weights(self.model)
        self.stepper.working.refresh(everything=True)
        if not setup.fresh_optimizer:
            found.restore_optimizer(self.stepper.optimizer, settings_win=bool(setup.on_purpose))
            self.stepper.scaler.load_state_dict(state["scaler"])
        self.average.restore(found.average() if self.average.settings else {})
        self.plan.restore(state["plan"], found.step)
        self.guard.restore(state["guard"])
        self.step, self.tokens, self.seconds = found.step, state["tokens"], state["train_seconds"]
        self.rollbacks = state["rollbacks"]
        self.best = None if state["best"] is None else (state["best"][0], state["best"][1])
        found.restore_random_state()
        return state
