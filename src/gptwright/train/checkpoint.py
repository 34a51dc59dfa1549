"""Checkpoints: complete or absent, hashed, and never unpickled.

A checkpoint is a folder ``step-N`` with ``model.safetensors``, ``optimizer.safetensors``, ``state.json``,
``config.yaml``, ``tokenizer/``, ``average.safetensors`` where weights are averaged, and ``manifest.json``,
which carries the size and sha256 of every other file. It is written beside, synced to disk and renamed, so a
reader sees all of it or nothing.
"""

import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gptwright.data.checked import file_hash
from gptwright.data.place import sync_folder
from gptwright.errors import CheckpointError
from gptwright.ops.precision import DTYPES, Precision
from gptwright.train.contents import Contents, unshared

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder whose manifest has been read."""

    folder: Path
    step: int

    def weights(self) -> dict[str, Tensor]:
        """Return the model's parameters and buffers by name."""
        return load_file(self.folder / "model.safetensors")

    def state(self) -> dict[str, Any]:
        """Return the plain part: step, tokens, seconds, and what else the run counted."""
        return json.loads((self.folder / "state.json").read_text("utf-8"))

    def precision(self) -> Precision:
        """Return the precision that the run began with: ``auto`` is decided once, by the machine it began on."""
        saved = self.state()["precision"]
        return Precision(saved["name"], DTYPES[saved["name"]], saved["float32_matmul"], "as the run began")

    def restore_weights(self, model: nn.Module) -> None:
        """Put the saved weights into ``model``.

        Raises:
            CheckpointError: names or shapes are not those of ``model``.
        """
        weights = self.weights()
        expected = {name: tuple(t.shape) for name, t in unshared(model)}
        found = {name: tuple(t.shape) for name, t in weights.items()}
        for name in sorted({*expected, *found}):
            if expected.get(name) != found.get(name):
                raise CheckpointError(
                    f"checkpoint {self.folder} does not fit the model: {name} is {found.get(name, 'absent')} there and "
                    f"{expected.get(name, 'absent')} here; load it with the settings that it was saved with"
                )
        model.load_state_dict(weights, strict=False)  # a tied head comes with the embedding

    def restore_optimizer(self, optimizer: torch.optim.Optimizer, *, settings_win: bool = False) -> None:
        """Put the saved optimizer state into ``optimizer``, which was built from the same settings.

        ``settings_win``: from others on purpose, which go before the saved ones.
        """
        tensors = load_file(self.folder / "optimizer.safetensors")
        saved = json.loads((self.folder / "optimizer.json").read_text("utf-8"))
        state: dict[int, dict[str, Any]] = {int(i): dict(values) for i, values in saved["state"].items()}
        for name, tensor in tensors.items():
            index, _, key = name.partition(".")
            state.setdefault(int(index), {})[key] = tensor
        fresh = optimizer.state_dict()["param_groups"]
        pairs = zip(fresh, saved["param_groups"], strict=True)
        groups = [{**old, **new, **(old if settings_win else {})} for old, new in pairs]
        optimizer.load_state_dict({"state": state, "param_groups": groups})

    @property
    def resumable(self) -> bool:
        """Whether there is an optimizer to go on with; an imported model has none."""
        return (self.folder / "optimizer.safetensors").is_file()

    def average(self) -> dict[str, Tensor]:
        """Return the averaged weights by name, empty where the run has none."""
        path = self.folder / "average.safetensors"
        return load_file(path) if path.exists() else {}

    def restore_random_state(self) -> None:
        """Set torch's generators to where they stood."""
        states = load_file(self.folder / "random.safetensors")
        torch.set_rng_state(states["cpu"])
        if "cuda" in states and torch.cuda.is_available():
            torch.cuda.set_rng_state(states["cuda"])


def save(parent: Path, step: int, contents: Contents) -> Path:
    """Write checkpoint ``parent/step-N`` and return it.

    Raises:
        CheckpointError: the disk is full or cannot be written; nothing half-written remains.
    """
    final = parent / f"step-{step}"
    partial = parent / f".step-{step}.partial-{os.getpid()}"
    old = partial.with_name(f"{partial.name}-old")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _write(partial, contents)
        _write_manifest(partial, step)
        if final.exists():  # of a step that was taken again; out of the way by one rename, gone at the next pruning
            shutil.rmtree(old, ignore_errors=True)
            final.rename(old)
        partial.rename(final)
        sync_folder(parent)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(
            f"checkpoint {final} could not be written: {error.strerror or error}; free some space or choose another "
            "folder with --run; earlier checkpoints are untouched"
        ) from error
    return final


def _write(folder: Path, contents: Contents) -> None:
    for name, tensors in contents.tensors.items():
        save_tensors(tensors, folder / name)
    for name, text in contents.texts.items():
        (folder / name).write_text(text, "utf-8")
    for path in contents.folders:
        shutil.copytree(path, folder / path.name)


def prune(parent: Path, keep: int, newest: int, best: int | None = None) -> None:
    """Remove all but step ``best`` and the ``keep`` latest checkpoints up to ``newest``, and what killed runs left.

    Later ones are those that were passed over as damaged when the run was resumed; they go too.
    """
    earlier = [folder for folder in by_step(parent) if step_of(folder) <= newest]
    kept = {*earlier[-keep:], parent / f"step-{best}"}
    for folder in {*by_step(parent)} - kept:
        shutil.rmtree(folder, ignore_errors=True)
    for folder in parent.glob(".step-*.partial-*"):
        shutil.rmtree(folder, ignore_errors=True)


def verify(folder: Path) -> Checkpoint:
    """Check every file of a checkpoint against its manifest.

    Raises:
        CheckpointError: names the first file that is missing or differs.
    """
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise CheckpointError(f"{folder} is not a checkpoint: it has no {MANIFEST}; give a run or a step-N folder")
    try:
        listed = json.loads(manifest.read_text("utf-8"))
        files, step = dict(listed["files"]), int(listed["step"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"checkpoint {folder} is damaged: {MANIFEST} cannot be read ({error})") from None
    for name, expected in files.items():
        _verify_file(folder, name, expected)
    return Checkpoint(folder, step)


def latest(parent: Path) -> tuple[Checkpoint, list[str]]:
    """Return the newest sound checkpoint below ``parent``, and a sentence for each damaged one passed over.

    Raises:
        CheckpointError: there is none, or all are damaged.
    """
    damaged: list[str] = []
    for folder in reversed(by_step(parent)):
        try:
            return verify(folder), damaged
        except CheckpointError as error:
            damaged.append(str(error))
    if damaged:
        raise CheckpointError(
            f"no checkpoint of {parent.parent} is sound: {'; '.join(damaged)}; restore one of them, or train again"
        )
    raise CheckpointError(f"{parent.parent} holds no checkpoint yet; train it, or give another run folder")


def by_step(parent: Path) -> list[Path]:
    """Return the checkpoint folders below ``parent``, damaged ones too, in the order of their steps."""
    return sorted((p for p in parent.glob("step-*") if p.name[5:].isdigit()), key=step_of)


def step_of(folder: Path) -> int:
    """Return N of a folder ``step-N``."""
    return int(folder.name[5:])


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write a file of safetensors; a disk that is full or gone is the same OSError that Python's own writing raises."""
    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        raise (OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(str(error))) from error


def _write_manifest(folder: Path, step: int) -> None:
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        sync(path)
        files[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": file_hash(path)}
    (folder / MANIFEST).write_text(json.dumps({"format": 1, "step": step, "files": files}, indent=2), "utf-8")
    sync(folder / MANIFEST)
    sync_folder(folder)


def _verify_file(folder: Path, name: str, expected: dict[str, Any]) -> None:
    path = folder / name
    if not path.is_file():
        raise CheckpointError(f"checkpoint {folder} is damaged: {name} is missing")
    size = path.stat().st_size
    if size != expected["bytes"]:
        raise CheckpointError(
            f"checkpoint {folder} is damaged: {name} has {size} bytes and its manifest says {expected['bytes']}"
        )
    found = file_hash(path)
    if found != expected["sha256"]:
        raise CheckpointError(
            f"checkpoint {folder} is damaged: {name} has sha256 {found[:12]}... "
            f"and its manifest says {expected['sha256'][:12]}..."
        )


def sync(path: Path) -> None:
    """Let what was written into a file outlast a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
