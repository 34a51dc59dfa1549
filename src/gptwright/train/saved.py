"""What a run or checkpoint folder holds, as those need it who did not train it: a plain model's weights."""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from gptwright.errors import CheckpointError
from gptwright.train.checkpoint import MANIFEST, Checkpoint, latest, verify
from gptwright.train.lora import LoraConfig, merged
from gptwright.train.run import CONFIG, read_data
from gptwright.train.saving import BEST


@dataclass(frozen=True)
class Saved(Checkpoint):
    """A checkpoint whose weights are those of a plain model: averaged where it has averages, adapters merged."""

    averaged: bool = True
    """Whether to use averaged weights where the checkpoint has them."""

    def weights(self) -> dict[str, Tensor]:
        """Return the plain model's parameters and buffers by name."""
        weights, lora = self.weights_as_trained(), self.lora()
        return weights if lora is None else merged(weights, lora)

    def weights_as_trained(self) -> dict[str, Tensor]:
        """Return parameters and buffers by name, adapters among them."""
        return {**super().weights(), **(self.average() if self.averaged else {})}

    @property
    def bits(self) -> int | None:
        """Bits of the weights where they are quantized, else None."""
        return self.state().get("quantized")

    def lora(self) -> LoraConfig | None:
        """Return the settings of the adapters that it was trained with, or None."""
        given = read_data(self.folder / CONFIG).get("lora")
        return None if given is None else LoraConfig.from_dict(given)


def find_checkpoint(
    path: str | Path, *, best: bool = False, averaged: bool = True, quantized: bool = False
) -> tuple[Saved, list[str]]:
    """Return the checkpoint that ``path``, a run or ``step-N`` folder, stands for, and what damaged ones it passed.

    ``best``: the one of the run's lowest validation loss; ``averaged``: see `Saved`; ``quantized``: whether a folder of
    weights of few bits will do, which is enough to generate and to evaluate.

    Raises:
        CheckpointError: there is nothing, every checkpoint is damaged, the best one is not there, or it is quantized.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise CheckpointError(
            f"there is no folder {folder}; give a run folder such as runs/demo, or one of its checkpoints"
        )
    if (folder / MANIFEST).exists():
        found, damaged = _only(folder, best=best), []
    elif not (folder / CONFIG).exists():
        if (folder / "config.json").is_file():
            raise CheckpointError(
                f"{folder} is a model folder of the Hugging Face world; make a run of it with gptwright import {folder}"
            )
        raise CheckpointError(f"{folder} is not a run: it has no {CONFIG}; give the folder that train wrote")
    else:
        found, damaged = (_best(folder / "checkpoints"), []) if best else latest(folder / "checkpoints")
    saved = Saved(found.folder, found.step, averaged)
    if saved.bits is not None and not quantized:
        raise CheckpointError(
            f"{folder} holds weights of {saved.bits} bits, which can generate and be evaluated and nothing else; name "
            "the run that they were made from"
        )
    return saved, damaged


def sound_checkpoint(path: str | Path, **how: bool) -> Saved:
    """Return the checkpoint that `find_checkpoint` finds; each damaged one that it passed is a Python warning."""
    found, damaged = find_checkpoint(path, **how)
    for sentence in damaged:
        warnings.warn(f"{sentence}; using step {found.step} instead", stacklevel=3)
    return found


def _only(folder: Path, *, best: bool) -> Checkpoint:
    if best:
        raise CheckpointError(f"{folder} is one checkpoint, and the best is one of a run; give the run folder")
    return verify(folder)


def _best(parent: Path) -> Checkpoint:
    """Return the checkpoint that `best.json` names."""
    way_out = "evaluate on the way (train.eval_every), or load the newest one with best=False"
    try:
        step = int(json.loads((parent / BEST).read_text("utf-8"))["step"])
    except FileNotFoundError:
        raise CheckpointError(f"run {parent.parent} has no best checkpoint: {BEST} is not there; {way_out}") from None
    except (ValueError, KeyError, TypeError):
        raise CheckpointError(f"{parent / BEST} is damaged and names no step; {way_out}") from None
    if not (parent / f"step-{step}").is_dir():
        raise CheckpointError(f"run {parent.parent} names step {step} as its best, and {parent} lacks it; {way_out}")
    return verify(parent / f"step-{step}")


@contextmanager
def named(what: str) -> Iterator[None]:
    """Put ``what`` before the message of a `CheckpointError` from inside."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{what}: {error}") from None
