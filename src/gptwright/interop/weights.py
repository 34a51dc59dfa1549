"""The tensors of a model folder: found, named and read without trusting anything in it.

Only safetensors are read. A pickle runs code when it is opened, so it is refused with the way to convert it.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from gptwright.errors import CheckpointError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
FLOATS = {"F64", "F32", "F16", "BF16"}
"""Types of numbers that weights may have."""
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.bin", "consolidated.00.pth")
_MAGIC = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_CONVERT = (
    'convert it where you trust it: python -c "from transformers import AutoModelForCausalLM as M; '
    "M.from_pretrained('{folder}').save_pretrained('{folder}-safe')\""
)


class Weights(Mapping[str, Tensor]):
    """Tensors by the names that a folder gives them, read from their files when asked for.

    Raises:
        CheckpointError: files are missing, damaged, pickles, or outside of the folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[Path, Any] = {}  # open, as their heads are read but once
        self._place: dict[str, Path] = {}
        self._shape: dict[str, tuple[int, ...]] = {}
        self._kind: dict[str, str] = {}
        listed = self._listed()
        for file in dict.fromkeys(listed.values()) if listed else [SINGLE]:
            self._open(folder / file)
        for name, file in listed.items():
            if self._place.get(name) != folder / file:
                raise CheckpointError(
                    f"{INDEX} of {folder} says that {name} is in {file}, and it is not there; download the folder again"
                )

    def __getitem__(self, name: str) -> Tensor:
        return self._files[self._place[name]].get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._place)

    def __len__(self) -> int:
        return len(self._place)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor without reading it."""
        return self._shape[name]

    @property
    def kinds(self) -> set[str]:
        """The types of number, in the words of safetensors: F32, BF16 ..."""
        return set(self._kind.values())

    def _listed(self) -> dict[str, str]:
        """Return the index of a folder with several files: the file of each tensor."""
        path = self.folder / INDEX
        if not path.is_file():
            if not (self.folder / SINGLE).is_file():
                raise self._without_weights()
            return {}
        found = read_object(path).get("weight_map")
        if not isinstance(found, dict) or not found:
            raise CheckpointError(f"{path} has no weight_map that says where tensors are; download the folder again")
        for file in found.values():
            check_inside(file, INDEX, self.folder)
        return found

    def _without_weights(self) -> CheckpointError:
        pickles = [name for name in _PICKLES if (self.folder / name).exists()]
        if pickles:
            way_out = _CONVERT.format(folder=self.folder)
            return CheckpointError(
                f"{self.folder} has its weights in {pickles[0]}, a pickle, which may run code when it is opened and is "
                f"never read; {way_out}"
            )
        return CheckpointError(
            f"{self.folder} has a config.json and no weights: neither {SINGLE} nor {INDEX} is there; download them "
            "too, or, where its owners have pickles alone, convert those with save_pretrained"
        )

    def _open(self, path: Path) -> None:
        if not path.is_file():
            raise CheckpointError(f"{self.folder} lacks {path.name}, which {INDEX} names; download it again")
        try:
            file = self._files[path] = safe_open(path, framework="pt")
            for name in file.keys():  # noqa: SIM118 - it is no mapping
                self._take(path, name, file.get_slice(name))
        except SafetensorError as error:
            raise self._damaged(path, error) from None

    def _take(self, path: Path, name: str, found: Any) -> None:
        if name in self._place:
            raise CheckpointError(
                f"{self.folder} has {name} twice, in {self._place[name].name} and in {path.name}; download it again"
            )
        self._place[name], self._shape[name] = path, tuple(found.get_shape())
        self._kind[name] = found.get_dtype()

    def _damaged(self, path: Path, error: SafetensorError) -> CheckpointError:
        with path.open("rb") as file:
            head = file.read(4)
        if head.startswith(_MAGIC):
            way_out = _CONVERT.format(folder=self.folder)
            return CheckpointError(
                f"{path} is a pickle under the name of a safetensors file, and is not read; {way_out}"
            )
        return CheckpointError(
            f"{path} is damaged or cut short ({path.stat().st_size} bytes; {error}); download it again"
        )


def check_inside(name: Any, said_by: str, folder: Path) -> None:
    """Make sure that a file named in a folder's own index lies in that folder.

    Raises:
        CheckpointError: it is a path to elsewhere, or no name at all.
    """
    if not isinstance(name, str) or not name or PurePosixPath(name).name != name or "\\" in name or name == "..":
        raise CheckpointError(
            f"{said_by} of {folder} names the file {name!r:.100}, and only files beside it are read; do not use a "
            "folder that points elsewhere"
        )


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in ``path``.

    Raises:
        CheckpointError: it cannot be read, or is none.
    """
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not readable JSON ({error!s:.100}); download it again") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds {type(found).__name__} and must hold an object; download it again")
    return found
