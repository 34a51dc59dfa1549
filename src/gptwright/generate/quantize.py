"""A run's model with weights of few bits, in a folder of its own that `gptwright.load` reads."""

import json
import math
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gptwright.data.contracts import Progress
from gptwright.data.place import sync_folder
from gptwright.errors import CheckpointError, GptwrightError
from gptwright.evaluate.likelihood import evaluate
from gptwright.model.gpt import GPT
from gptwright.model.quantized import QuantizedGPT, quantize, weight_bytes
from gptwright.ops.packed import check_bits
from gptwright.train.checkpoint import MANIFEST, save, verify
from gptwright.train.contents import Contents, unshared
from gptwright.train.load import load
from gptwright.train.run import CONFIG
from gptwright.train.saved import Saved, sound_checkpoint

__all__ = ["Quantized", "quantize", "quantize_run"]


@dataclass(frozen=True)
class Quantized:
    """What became of a model, before and after."""

    folder: Path
    """Where the quantized one is."""
    bits: int
    """Bits of its matrices."""
    bytes_before: int
    """Bytes of the run's weights."""
    bytes_after: int
    """Bytes of the quantized ones, scales included."""
    perplexity_before: float | None
    """On the whole validation split; None where that could not be measured."""
    perplexity_after: float | None
    """The same of the quantized model."""
    unmeasured: str | None = None
    """Why perplexity could not be measured."""

    @property
    def change(self) -> float | None:
        """Growth of the perplexity, as a share: 0.01 is 1 % worse."""
        if self.perplexity_before is None or self.perplexity_after is None:
            return None
        return self.perplexity_after / self.perplexity_before - 1

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as plain data."""
        return {**asdict(self), "folder": str(self.folder), "perplexity_change": self.change}


def quantize_run(
    run: str | Path,
    bits: int = 8,
    *,
    out: str | Path | None = None,
    data: str | None = None,
    force: bool = False,
    trust_code: bool = False,
    progress: Progress | None = None,
) -> Quantized:
    """Write the model of ``run`` (a run or ``step-N`` folder) with matrices of ``bits`` bits, and measure both.

    Args:
        run: what `gptwright.load` would load.
        bits: 8 or 4.
        out: the folder to write; by default the run's with `-int8` or `-int4` after its name.
        data: another source of text to measure on; by default the run's own validation split. Where the run's own data
            cannot be had, the model is quantized all the same, and not measured.
        force: whether a quantized folder that is there is replaced.
        trust_code: see `gptwright.load`.
        progress: called while text is prepared.

    Raises:
        CheckpointError: there is nothing to quantize, it is quantized already, or the folder cannot be written.
        GptwrightError: another number of bits, or a weight that is not finite.
    """
    check_bits(bits)
    found = sound_checkpoint(run)
    folder = Path(out).expanduser() if out is not None else _beside(Path(run).expanduser(), bits)
    _refuse_to_lose(folder, force=force)
    model = load(found.folder, trust_code=trust_code)
    before, why = _perplexity(model, data, progress)
    small = quantize(model, bits)
    after = None if why else _perplexity(small, data, progress)[0]
    _write(small, found, folder)
    return Quantized(folder, bits, weight_bytes(model), weight_bytes(small), before, after, why)


def _beside(run: Path, bits: int) -> Path:
    run = run.resolve() if run.name in ("", "..") else run  # `.` has no name to add to
    return run.with_name(f"{run.name}-int{bits}")


def _refuse_to_lose(folder: Path, *, force: bool) -> None:
    if not folder.exists():
        return
    if not force:
        raise CheckpointError(f"{folder} exists already; choose another folder with --out, or replace it with --force")
    if not (folder / MANIFEST).is_file() or _bits(folder) is None:
        raise CheckpointError(
            f"{folder} is not a quantized folder, and --force replaces nothing else; choose another folder with --out"
        )


def _bits(folder: Path) -> int | None:
    try:
        return json.loads((folder / "state.json").read_text("utf-8")).get("quantized")
    except (OSError, ValueError, AttributeError):
        return None


def _perplexity(model: GPT, data: str | None, progress: Progress | None) -> tuple[float | None, str | None]:
    """Return the perplexity, or None and the reason."""
    try:
        score = evaluate(model, data={"source": data} if data else None, progress=progress)
    except GptwrightError as error:
        if data is not None:  # which was asked for
            raise
        return None, str(error)
    return (score.perplexity, None) if math.isfinite(score.perplexity) else (None, "the perplexity is not finite")


def _write(model: QuantizedGPT, found: Saved, folder: Path) -> None:
    """Write the folder beside and rename it, so that it is there whole or not at all."""
    beside = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    tokenizer = found.folder / "tokenizer"
    state = {"step": found.step, "precision": found.state()["precision"], "quantized": model.bits}
    contents = Contents(
        {"model.safetensors": {name: tensor.detach().contiguous() for name, tensor in unshared(model)}},
        {"state.json": json.dumps(state, indent=2), CONFIG: (found.folder / CONFIG).read_text("utf-8")},
        (tokenizer,) if tokenizer.is_dir() else (),
    )
    try:
        _put(save(beside, found.step, contents), folder)
        verify(folder)
    except (CheckpointError, OSError) as error:
        reason = error.__cause__ or error
        raise CheckpointError(
            f"{folder} could not be written: {getattr(reason, 'strerror', None) or reason}; free some space, or choose "
            "another folder with --out"
        ) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _put(written: Path, folder: Path) -> None:
    """Rename ``written`` to ``folder``; what was there goes once the new one is in its place."""
    old = written.with_name("old")
    if folder.exists():
        folder.rename(old)
    written.rename(folder)
    sync_folder(folder.parent)
