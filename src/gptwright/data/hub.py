"""Hugging Face datasets, from the hub or from a local folder."""

import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from gptwright.data.base import Piece, Source, row_pieces
from gptwright.data.config import PartConfig
from gptwright.data.formats import Format
from gptwright.errors import DataError

_PREFIX = "hf:"


class HubDataset(Source):
    """``hf:owner/name``, or ``hf:/local/folder`` as ``save_to_disk`` or the usual data files make it.

    The split `hf_split` is memory-mapped, one document a row, in the column `text_field`.
    """

    def __init__(self, part: PartConfig, format: Format, where: str = "data.source") -> None:
        super().__init__(part, format, where)
        self.place = part.source.removeprefix(_PREFIX)
        self.name = self.place.rstrip("/").rpartition("/")[2] or "dataset"

    @classmethod
    def accepts(cls, source: str) -> bool:
        """Take names that begin with `hf:`, and folders that `save_to_disk` wrote."""
        folder = os.path.expanduser(source)  # os.path: a name longer than the system allows is no file, and no error
        saved = any(os.path.isfile(f"{folder}/{name}") for name in ("dataset_info.json", "dataset_dict.json"))
        return source.startswith(_PREFIX) or saved

    def pieces(self) -> Iterator[Piece]:
        """Yield what each row means; texts that are missing are passed over."""
        yield from row_pieces(self._places(), self.format)

    def _places(self) -> Iterator[tuple[str, dict[str, Any]]]:
        fields = list(self.format.fields)
        for number, row in enumerate(self._rows.select_columns(fields), start=1):
            if not self.format.is_text or row[fields[0]] is not None:
                yield f"row {number} of {self.part.source}", row

    @property
    def fingerprint_hint(self) -> dict[str, Any]:
        """The library's own fingerprint of the split."""
        rows = self._rows
        print_ = str(getattr(rows, "_fingerprint", ""))
        return {"hf": self.place, "split": self.part.hf_split, "rows": len(rows), "fingerprint": print_}

    @cached_property
    def _rows(self) -> Any:
        rows = self._split(self._load())
        for field in self.format.fields:
            if field not in rows.column_names:
                columns = ", ".join(map(repr, rows.column_names)) or "no columns"
                setting = "data.text_field" if self.format.is_text else f"the fields of {self.format.config.format}"
                raise DataError(f"{self.part.source} has no column '{field}' (it has {columns}): set {setting}")
        return rows

    def _load(self) -> Any:
        datasets = _library(self.part.source)
        folder = Path(self.place).expanduser()
        local = folder.is_dir()
        if not local and (self.place.startswith(("/", ".", "~"))):
            raise DataError(f"there is no folder {folder} (current directory {Path.cwd()}) for data.source")
        saved = [name for name in ("dataset_dict.json", "state.json") if (folder / name).exists()]
        try:
            if local and saved:
                return datasets.load_from_disk(str(folder))
            return datasets.load_dataset(str(folder) if local else self.place)
        except Exception as error:  # the library and its transports raise a dozen unrelated kinds
            reason = " ".join(str(error).split())[:300]
            raise DataError(
                f"the dataset {self.part.source} could not be loaded ({type(error).__name__}: {reason}): "
                "check its name and the network, or give a local folder as hf:/path"
            ) from error

    def _split(self, found: Any) -> Any:
        if not isinstance(found, dict):  # one split, saved alone
            return found
        if self.part.hf_split not in found:
            raise DataError(
                f"{self.part.source} has no split '{self.part.hf_split}' (it has {', '.join(found)}): set data.hf_split"
            )
        return found[self.part.hf_split]


def _library(source: str) -> Any:
    try:
        import datasets
    except ImportError:
        raise DataError(
            f"{source} needs the datasets library, which is not installed: pip install 'gptwright[data]'"
        ) from None
    return datasets
