"""One run in progress: steps, and what happens between them."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gptwright.errors import GptwrightError
from gptwright.model.score import Score
from gptwright.ops.memory import kept_memory
from gptwright.ops.precision import peak_flops
from gptwright.train import exhausted
from gptwright.train.checkpoint import Checkpoint
from gptwright.train.diagnose import first_bad_tensor
from gptwright.train.display import Display
from gptwright.train.pace import Workload
from gptwright.train.plan import Portion
from gptwright.train.result import TrainResult
from gptwright.train.run import RunFolder
from gptwright.train.sample import sample_text
from gptwright.train.saving import Saver
from gptwright.train.setup import Setup
from gptwright.train.step import StepResult
from gptwright.train.telling import Telling
from gptwright.train.watch import StopSignals


class Trainer:
    """Trains one model in one folder, from where it stands to the last step; callbacks see it as a `Run`."""

    def __init__(self, setup: Setup, folder: RunFolder, display: Display) -> None:
        self.setup, self.folder, self.display = setup, folder, display
        self.config, self.data = setup.config, setup.data
        self.work = setup.begin()
        self.telling = Telling(setup, folder, display)
        self.saver = Saver(folder.checkpoints, self.config.train.keep_checkpoints, folder.sync)
        self._score: tuple[int, Score] | None = None
        self._saved_at: int | None = None
        self._stop_reason: str | None = None

    @property
    def model(self) -> Any:
        """The model, its weights in fp32."""
        return self.work.model

    @property
    def step(self) -> int:
        """Optimizer steps taken."""
        return self.work.step

    @property
    def tokens(self) -> int:
        """Tokens learnt from."""
        return self.work.tokens

    @property
    def path(self) -> Path:
        """The run folder."""
        return self.folder.folder

    def stop(self, reason: str) -> None:
        """End the run after this step."""
        self._stop_reason = self._stop_reason or reason

    def say(self, text: str) -> None:
        """Show a line."""
        self.display.message(text)

    def run(self) -> TrainResult:
        """Train to the last step or to a signal, save, and write the report."""
        self.display.phase("")
        self.display.work = self._workload()
        self.display.step = self.step
        steps = self.config.train.steps
        with StopSignals() as signals, self.setup.precision.scope(), kept_memory(), self._ending():
            self.telling.peak = peak_flops(self.setup.precision, self.data.device)
            self.telling.start(self)
            while self.step < steps and signals.received is None and self._stop_reason is None:
                self._advance()
            return self._finish(interrupted=signals.received is not None and self.step < steps)

    def _workload(self) -> Workload:
        """Return what there is to do, so that the time left can be told."""
        train, sizes = self.config.train, self.work.plan.ramp_tokens()
        every = {"evaluation": train.eval_every, "save": train.checkpoint_every}
        if train.sample_tokens:
            every["sample"] = train.sample_every
        return Workload(train.steps, every, train.tokens_per_step, sizes, self.data.prepared.val.tokens)

    def resume(self, found: Checkpoint) -> None:
        """Go on from a checkpoint."""
        state = self.work.restore(found)
        self.telling.restore(state, self.work)
        self._saved_at = found.step
        self._stop_reason = None
        self.folder.rewind(found.step)

    @contextmanager
    def _ending(self) -> Iterator[None]:
        """Let a checkpoint that is being written be finished, whatever ends the run; but for a second Ctrl-C."""
        try:
            with exhausted.explained(self.config):
                yield
        except KeyboardInterrupt:
            raise
        except BaseException:
            self.saver.finish_quietly()
            raise

    def _advance(self) -> None:
        work, train = self.work, self.config.train
        portion = work.plan.portion(work.step)
        began = time.perf_counter()
        result = work.learn(self.data.batch(portion.first, portion.rows), portion)
        work.seconds += time.perf_counter() - began
        self.saver.check()
        self.telling.stepped(self, result)
        if self._went_wrong(result, portion):
            return
        if _due(self.step, train.log_every) or self.step in (1, train.steps):
            self.telling.log(self, result, portion)
        if self.step == train.steps:
            return  # the rest is due at the end anyway
        better = _due(self.step, train.eval_every) and self._evaluate()
        if _due(self.step, train.sample_every):
            self._sample()
        if _due(self.step, train.checkpoint_every) or (better and train.keep_best):
            self._save()

    def _went_wrong(self, result: StepResult, portion: Portion) -> bool:
        """Watch over skipped steps; True when the run has gone back to a checkpoint."""
        guard = self.work.guard
        if guard.see(self.step - 1, result):
            what = "loss" if result.loss - result.loss != 0 else "gradient"
            self.display.warning(f"step {self.step}: the {what} is not finite; the step is skipped")
        if guard.tripped is None:
            return False
        bad = self.work.plan.portion(guard.tripped)
        if not guard.may_go_back:
            raise GptwrightError(self._hopeless(portion))
        self._go_back(guard.tripped, bad)
        return True

    def _go_back(self, first: int, bad: Portion) -> None:
        """Return to the last checkpoint before step ``first``, and leave out the batch with which the trouble began."""
        limit = self.config.train.skip_limit
        self.saver.wait()
        sound = self.folder.checkpoint_before(first)
        what = f"{limit} steps in a row were not finite from step {first + 1} on; the run goes back to step "
        self.display.warning(f"{what}{sound.step if sound else 0} and leaves out the batch of step {first + 1}")
        self.work.guard.go_back()
        went_back_at, rollbacks = self.work.guard.went_back_at, self.work.rollbacks + 1
        if sound is not None:
            self.resume(sound)
        else:
            self.work = self.setup.begin(anew=True)
            self.telling.count_from(self.work)
            self.folder.rewind(0)
            self._saved_at = None
        self.work.plan.leave_out(bad)
        self.work.guard.went_back_at, self.work.rollbacks = went_back_at, rollbacks
        self.telling.went_back(self)
        self.display.step = self.step

    def _hopeless(self, portion: Portion) -> str:
        """Say what ended the run, and which tensor to look at."""
        stepper, batch = self.work.stepper, self.data.batch(portion.first, portion.rows).cut(portion.length)
        stepper.working.refresh()
        stepper.working.model.train()
        found = first_bad_tensor(stepper.working.model, lambda: stepper.objective(batch))
        limit, again = self.config.train.skip_limit, " again" if self.work.rollbacks else ""
        what = found or "nothing is bad in a single pass, only the sum over micro-batches"
        return (
            f"{limit} steps in a row up to step {self.step} were not finite{again}, so nothing is learnt any more; "
            f"what went bad first: {what}; lower optim.lr (with --resume-with), keep train.clip on, or use "
            "train.precision=fp32 in a new run; all checkpoints are kept"
        )

    def _evaluate(self, *, extra: bool = False) -> bool:
        """Score the validation split, and say whether it was never better.

        An ``extra`` time leaves no trace, so that an interrupted run stays the same.
        """
        self.display.phase("evaluating")
        with self.work.evaluating() as model:
            score = self.data.validate(model)
        self._score = (self.step, score)
        better = not extra and self.work.note_score(score.loss)
        self.telling.evaluated(self, score, extra=extra)
        return better

    def _sample(self) -> None:
        if not self.config.train.sample_tokens:
            return
        with self.work.evaluating() as model:
            text = sample_text(model, self.data, self.config.train)
        self.telling.sample(self, text)

    def _save(self) -> None:
        if self._saved_at == self.step:
            return
        self.data.check()
        contents = self.work.contents(self.telling.callback_states(), self.folder.config_file.read_text("utf-8"))
        best = self.work.best if self.config.train.keep_best else None
        self.saver.save(self.step, contents, best)
        self._saved_at = self.step
        self.display.saved(self.step)
        self.telling.saved(self, self.folder.checkpoints / f"step-{self.step}")

    def _finish(self, *, interrupted: bool) -> TrainResult:
        if interrupted:
            self._save()  # at once: who asked for a stop may not wait for the rest
        if self._score is None or self._score[0] != self.step:
            self._evaluate(extra=interrupted or self.folder.has_score(self.step))
        if not interrupted and not self.folder.has_sample(self.step):
            self._sample()
        self._save()
        self.saver.wait()
        assert self._score is not None
        result = self._result(self._score[1], interrupted)
        self.telling.end(self, result)
        return result

    def _result(self, score: Score, interrupted: bool) -> TrainResult:
        work, best = self.work, self.work.best
        return TrainResult(
            run=str(self.folder.folder),
            step=self.step,
            tokens=self.tokens,
            train_seconds=work.seconds,
            tokens_per_second=self.tokens / work.seconds if work.seconds else 0.0,
            val_loss=score.loss,
            val_bits_per_byte=score.bits_per_byte,
            best_step=best[0] if best else None,
            best_val_loss=best[1] if best else None,
            rollbacks=work.rollbacks,
            interrupted=interrupted,
            stopped_because=self._stop_reason,
        )


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
