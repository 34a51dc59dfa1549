"""What a checkpoint is written from: tensors and texts by the names of their files."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Contents:
    """What a checkpoint is written from."""

    tensors: dict[str, dict[str, Tensor]]
    """Tensors by the name of the file and their own."""
    texts: dict[str, str]
    """Texts by the name of the file."""
    folders: tuple[Path, ...] = ()
    """Folders that are copied in; they must not change."""

    def snapshot(self) -> "Contents":
        """Return the same with tensors of its own, so that training may go on while they are written."""
        copied = {file: {name: t.clone() for name, t in named.items()} for file, named in self.tensors.items()}
        return replace(self, tensors=copied)


def contents_of(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: dict[str, Tensor],
    state: dict[str, Any],
    *,
    texts: Mapping[str, str] | None = None,
    folders: tuple[Path, ...] = (),
) -> Contents:
    """Return what a checkpoint of a run holds, torch's random state now included; tensors are the run's own.

    ``texts`` (by file name) and ``folders`` are put in besides.
    """
    whole = optimizer.state_dict()
    moving: dict[str, Tensor] = {}
    plain: dict[str, dict[str, Any]] = {}
    for index, values in whole["state"].items():
        for key, value in values.items():
            if isinstance(value, Tensor):
                moving[f"{index}.{key}"] = value.contiguous()
            else:
                plain.setdefault(str(index), {})[key] = value
    groups = [{k: v for k, v in group.items() if k != "params"} for group in whole["param_groups"]]
    tensors = {
        "model.safetensors": {name: t.detach().contiguous() for name, t in unshared(model)},
        "optimizer.safetensors": moving,
        "random.safetensors": _random_state(),
    }
    written = {
        "state.json": json.dumps(state, indent=2),
        "optimizer.json": json.dumps({"state": plain, "param_groups": groups}),
        **(texts or {}),
    }
    return Contents(tensors | ({"average.safetensors": average} if average else {}), written, folders)


def _random_state() -> dict[str, Tensor]:
    cuda = {"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {}
    return {"cpu": torch.get_rng_state(), **cuda}


def unshared(model: nn.Module) -> Iterable[tuple[str, Tensor]]:
    """Yield parameters and persistent buffers by name, shared ones once."""
    seen: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            yield name, tensor
