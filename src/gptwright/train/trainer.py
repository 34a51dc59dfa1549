"""One run in progress: steps, and what happens between them."""

import math
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch

from gptwright.errors import CheckpointError, GptwrightError
from gptwright.model.freeze import choose_trained
from gptwright.model.gpt import GPT
from gptwright.model.score import Score
from gptwright.ops.memory import kept_memory
from gptwright.ops.precision import Precision, choose, peak_flops
from gptwright.train import checkpoint as checkpoints
from gptwright.train.checkpoint import Checkpoint
from gptwright.train.config import RunConfig
from gptwright.train.data import RunData, with_vocabulary
from gptwright.train.display import Display
from gptwright.train.report.page import write_report
from gptwright.train.run import RunFolder
from gptwright.train.sample import sample_text
from gptwright.train.step import Stepper, StepResult
from gptwright.train.track import Trackers, open_trackers
from gptwright.train.watch import StopSignals

MOST_SKIPPED = 20
"""Steps in a row whose gradient may fail to be finite before the run stops."""


@dataclass(frozen=True)
class TrainResult:
    """What a run came to."""

    run: str
    """The run folder."""
    step: int
    """Optimizer steps taken."""
    tokens: int
    """Tokens trained on."""
    train_seconds: float
    """Seconds since the first step began, compiling included, evaluation and saving excluded."""
    tokens_per_second: float
    """Tokens over train_seconds."""
    val_loss: float
    """Cross-entropy of the whole validation split in nats a token."""
    val_bits_per_byte: float
    """The same in bits a byte of text."""
    interrupted: bool = False
    """True when a signal ended the run early; a checkpoint was saved."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


class Trainer:
    """Trains one model in one folder, from where it stands to the last step."""

    def __init__(
        self, config: RunConfig, folder: RunFolder, data: RunData, display: Display, precision: Precision
    ) -> None:
        self.config, self.folder, self.data, self.display = config, folder, data, display
        self.precision = precision
        torch.manual_seed(config.train.seed)
        self.model = GPT(config.model).to(data.device)
        self.trained = choose_trained(self.model, config.train.freeze, config.train.unfreeze)
        optimizer = config.build_optimizer(self.model, precision)
        self.stepper = Stepper(self.model, optimizer, config.build_schedule(), config.train, precision)
        self.flops_per_token = config.model.flops_per_token()
        self.step, self.seconds, self.skipped, self.skipped_in_row = 0, 0.0, 0, 0
        self._logged = (0, 0.0)
        self._score: tuple[int, Score] | None = None
        self._saved_at: int | None = None
        self.trackers = Trackers({}, [], None)

    @classmethod
    def start(cls, config: RunConfig, folder: RunFolder, display: Display, *, resume: bool) -> "Trainer":
        """Open the data, build the model, and restore the newest sound checkpoint if the run goes on."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        config.build_schedule()  # phases that do not fit are refused before any work
        _refuse_unknown_names(config)
        found = folder.checkpoint_for(config, display.warning) if resume else None
        data = RunData.open(config, device, lambda stage, done, total: display.phase(_stage(stage, done, total)))
        if found is not None:
            _refuse_other_data(folder, found, data)
        config = data.config = with_vocabulary(config, data.tokenizer)
        display.phase("measuring the machine")
        precision = found.precision() if found is not None else choose(config.train.precision, device)
        trainer = cls(config, folder, data, display, precision)
        for line in trainer.trained.lines() if trainer.trained.frozen else ():
            display.message(line)
        if found is not None:
            trainer._restore(found)
        folder.write_config(config)
        trainer._open_trackers()
        return trainer

    def run(self) -> TrainResult:
        """Train to the last step or to a signal, save, and write the report."""
        self.display.phase("")
        self.display.step = self.step
        steps = self.config.train.steps
        with StopSignals() as signals, self.precision.scope(), kept_memory():
            self._peak = peak_flops(self.precision, self.data.device)
            while self.step < steps and signals.received is None:
                self._advance()
            return self._finish(interrupted=self.step < steps)

    @property
    def tokens(self) -> int:
        """Tokens trained on so far."""
        return self.step * self.config.train.tokens_per_step

    def _advance(self) -> None:
        began = time.perf_counter()
        result = self.stepper.step(
            self.step, *self.data.batch(self.step * self.config.rows_per_step, self.config.rows_per_step)
        )
        self.seconds += time.perf_counter() - began
        self.step += 1
        self._guard(result)
        train = self.config.train
        if _due(self.step, train.log_every) or self.step in (1, train.steps):
            self._log(result)
        if _due(self.step, train.eval_every) and self.step < train.steps:
            self._evaluate()
        if _due(self.step, train.sample_every) and self.step < train.steps:
            self._sample()
        if _due(self.step, train.checkpoint_every) and self.step < train.steps:
            self._save()

    def _guard(self, result: StepResult) -> None:
        """Count steps that moved nothing, and stop a run in which nothing moves any more."""
        self.skipped += result.skipped
        self.skipped_in_row = self.skipped_in_row + 1 if result.skipped else 0
        if self.skipped_in_row == 1 and self.precision.compute_dtype != torch.float16:  # fp16 skips to find its scale
            self.display.warning(f"step {self.step}: the gradient is not finite; the step is skipped")
        if self.skipped_in_row >= MOST_SKIPPED:
            raise GptwrightError(
                f"the gradient was not finite for {MOST_SKIPPED} steps in a row up to step {self.step} "
                f"(loss {result.loss}); lower optim.lr, keep train.clip on, or use train.precision=fp32, then --resume"
            )

    def _log(self, result: StepResult) -> None:
        steps, seconds = self.step - self._logged[0], self.seconds - self._logged[1]
        self._logged = (self.step, self.seconds)
        speed = steps * self.config.train.tokens_per_step / max(seconds, 1e-9)
        row = {
            **self._clock(),
            "loss": _plain(result.loss),
            "lr": result.lr,
            "grad_norm": _plain(result.grad_norm),
            "tokens_per_second": speed,
            "peak_fraction": speed * self.flops_per_token / self._peak,
            "skipped_steps": self.skipped,
            **result.figures,
        }
        self.folder.log(row)
        self.display.log(row)
        self.trackers.log(self.step, row)

    def _evaluate(self) -> Score:
        self.stepper.working.refresh()
        score = self.data.validate(self.stepper.working.model)
        row = {**self._clock(), "val_loss": _plain(score.loss), "val_bits_per_byte": _plain(score.bits_per_byte)}
        self.folder.log(row)
        self.display.evaluated(row)
        self.trackers.log(self.step, row)
        self._score = (self.step, score)
        return score

    def _sample(self) -> None:
        if not self.config.train.sample_tokens:
            return
        self.stepper.working.refresh()
        text = sample_text(self.stepper.working.model, self.data, self.config.train)
        self.folder.add_sample(self.step, self.tokens, text)
        self.display.sample(self.step, text)
        self.trackers.text(self.step, "sample", text)

    def _save(self) -> None:
        state = {
            "tokens": self.tokens,
            "train_seconds": self.seconds,
            "skipped_steps": self.skipped,
            "scaler": self.stepper.scaler.state_dict(),
            "precision": {"name": self.precision.name, "float32_matmul": self.precision.float32_matmul},
            "data": self.data.prepared.fingerprint,
            "vocab_size": self.data.tokenizer.vocab_size,
        }
        checkpoints.save(
            self.folder.checkpoints,
            self.step,
            model=self.model,
            optimizer=self.stepper.optimizer,
            state=state,
            extra=(self.folder.config_file, self.data.prepared.tokenizer_folder),
        )
        checkpoints.prune(self.folder.checkpoints, self.config.train.keep_checkpoints, newest=self.step)
        self._saved_at = self.step

    def _restore(self, found: Checkpoint) -> None:
        state = found.state()
        found.restore_weights(self.model)
        self.stepper.working.refresh(everything=True)
        found.restore_optimizer(self.stepper.optimizer)
        self.stepper.scaler.load_state_dict(state["scaler"])
        self.step, self.seconds, self.skipped = found.step, state["train_seconds"], state["skipped_steps"]
        self._logged = (self.step, self.seconds)
        self._saved_at = found.step
        self.folder.rewind(found.step)
        self.display.message(f"resuming {self.folder.folder} at step {found.step}")
        found.restore_random_state()

    def _finish(self, *, interrupted: bool) -> TrainResult:
        if self._saved_at != self.step:
            self._save()
        if self._score is None or self._score[0] != self.step:
            self._evaluate()
            self._sample()
        assert self._score is not None
        score = self._score[1]
        result = TrainResult(
            run=str(self.folder.folder),
            step=self.step,
            tokens=self.tokens,
            train_seconds=self.seconds,
            tokens_per_second=self.tokens / self.seconds if self.seconds else 0.0,
            val_loss=score.loss,
            val_bits_per_byte=score.bits_per_byte,
            interrupted=interrupted,
        )
        self.folder.summarise({**result.to_dict(), "params": self.config.model.num_params()})
        self.trackers.close()
        write_report(self.folder.folder)
        return result

    def _clock(self) -> dict[str, Any]:
        return {"step": self.step, "tokens": self.tokens, "train_seconds": self.seconds}

    def _open_trackers(self) -> None:
        names, tell = self.config.train.trackers, self.display.warning
        settings = self.config.to_dict()
        self.trackers = open_trackers(names, self.folder.folder, settings, start_step=self.step, tell=tell)


def _refuse_unknown_names(config: RunConfig) -> None:
    """Refuse patterns that name no parameter before any work: a model on `meta` has all names and no memory."""
    model, train = config.model, config.train
    if train.freeze or train.unfreeze or model.init.overrides:
        with torch.device("meta"):
            built = GPT(model.model_copy(update={"vocab_size": model.vocab_size or 1}))
        choose_trained(built, train.freeze, train.unfreeze)


def _refuse_other_data(folder: RunFolder, found: Checkpoint, data: RunData) -> None:
    state = found.state()
    vocab, needed = state["vocab_size"], data.tokenizer.vocab_size
    way_out = "give it the source and tokenizer that it began with, or start a new run with --run"
    if vocab != needed:
        raise CheckpointError(
            f"run {folder.folder} was trained with a vocabulary of {vocab} tokens and the data now has {needed}; "
            f"{way_out}"
        )
    if state["data"] != data.prepared.fingerprint:
        raise CheckpointError(
            f"run {folder.folder} was trained on data with fingerprint {state['data'][:12]} and data.source now has "
            f"{data.prepared.fingerprint[:12]}: the text has changed; {way_out}"
        )


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _plain(value: float) -> float | None:
    """Return a number that JSON can hold."""
    return value if math.isfinite(value) else None


def _stage(stage: str, done: int, total: int | None) -> str:
    share = f" {100 * done / total:.0f} %" if total else ""
    return f"data: {stage}{share}"
