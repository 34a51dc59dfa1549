"""Hugging Face datasets, from the hub or from a local folder."""

import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from gptwright.data.base import Source
from gptwright.errors import DataError

_PREFIX = "hf:"


class HubDataset(Source):
    """``hf:owner/name``, or ``hf:/local/folder`` as ``save_to_disk`` or the usual data files make it.

    The split `hf_split` is memory-mapped, one document a row, in the column `text_field`.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.place = config.source.removeprefix(_PREFIX)
        self.name = self.place.rstrip("/").rpartition("/")[2] or "dataset"

    @classmethod
    def accepts(cls, source: str) -> bool:
        """Take names that begin with `hf:`, and folders that `save_to_disk` wrote."""
        folder = os.path.expanduser(source)  # os.path: a name longer than the system allows is no file, and no error
        saved = any(os.path.isfile(f"{folder}/{name}") for name in ("dataset_info.json", "dataset_dict.json"))
        return source.startswith(_PREFIX) or saved

    def documents(self) -> Iterator[str]:
        """Yield the text of each row; empty and missing ones are passed over."""
        field = self.config.text_field
        for row in self._rows.select_columns([field]):
            value = row[field]
            if value is not None and not isinstance(value, str):
                kind, source = type(value).__name__, self.config.source
                raise DataError(f"{source} has a {kind} in '{field}', not text: set data.text_field")
            if value:
                yield value

    @property
    def fingerprint_hint(self) -> dict[str, Any]:
        """The library's own fingerprint of the split."""
        rows = self._rows
        print_ = str(getattr(rows, "_fingerprint", ""))
        return {"hf": self.place, "split": self.config.hf_split, "rows": len(rows), "fingerprint": print_}

    @cached_property
    def _rows(self) -> Any:
        rows, field = self._split(self._load()), self.config.text_field
        if field not in rows.column_names:
            columns = ", ".join(map(repr, rows.column_names)) or "no columns"
            raise DataError(f"{self.config.source} has no column '{field}' (it has {columns}): set data.text_field")
        return rows

    def _load(self) -> Any:
        datasets = _library(self.config.source)
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
                f"the dataset {self.config.source} could not be loaded ({type(error).__name__}: {reason}): "
                "check its name and the network, or give a local folder as hf:/path"
            ) from error

    def _split(self, found: Any) -> Any:
        if not isinstance(found, dict):  # one split, saved alone
            return found
        if self.config.hf_split not in found:
            raise DataError(
                f"{self.config.source} has no split '{self.config.hf_split}' (it has {', '.join(found)}): "
                "set data.hf_split"
            )
        return found[self.config.hf_split]


def _library(source: str) -> Any:
    try:
        import datasets
    except ImportError:
        raise DataError(
            f"{source} needs the datasets library, which is not installed: pip install 'gptwright[data]'"
        ) from None
    return datasets
