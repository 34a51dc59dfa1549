"""Hugging Face datasets, from the hub or from a local folder."""

import hashlib
import json
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

    The split `hf_split` is memory-mapped, or with `hf_streaming` read a row at a time from where it lies; one document
    a row, in the column `text_field`.
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
        rows = self._rows.select_columns(fields)
        for number, row in enumerate(self._streamed(rows) if self._streams else rows, start=1):
            if not self.format.is_text or row[fields[0]] is not None:
                yield f"row {number} of {self.part.source}", row

    def _streamed(self, rows: Any) -> Iterator[dict[str, Any]]:
        """Yield rows from where they lie; what fails on the way is told as an error in loading is."""
        try:
            yield from rows
        except Exception as error:  # the library and its transports raise a dozen unrelated kinds
            raise self._failed(error) from error

    @property
    def fingerprint_hint(self) -> dict[str, Any]:
        """The library's own fingerprint of the split; of a stream, of the files that it comes from."""
        if self._streams:
            config = self._builder.config
            files = {str(split): _versions(listed) for split, listed in (config.data_files or {}).items()}
            digest = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
            which = {"subset": config.name, "version": str(config.version), "files": digest}
            return {"hf": self.place, "split": self.part.hf_split, "streamed": which}
        rows = self._rows
        print_ = str(getattr(rows, "_fingerprint", ""))
        return {"hf": self.place, "split": self.part.hf_split, "rows": len(rows), "fingerprint": print_}

    @cached_property
    def _rows(self) -> Any:
        rows = self._split(self._load())
        names = rows.column_names or list(next(self._streamed(rows), {}))  # streams of JSON do not know them before
        for field in self.format.fields:
            if field not in names:
                columns = ", ".join(map(repr, names)) or "no columns"
                setting = "data.text_field" if self.format.is_text else f"the fields of {self.format.config.format}"
                raise DataError(f"{self.part.source} has no column '{field}' (it has {columns}): set {setting}")
        return rows

    def _load(self) -> Any:
        datasets, config = _library(self.part.source), self.format.config
        folder = Path(self.place).expanduser()
        local = folder.is_dir()
        if not local and (self.place.startswith(("/", ".", "~"))):
            raise DataError(f"there is no folder {folder} (current directory {Path.cwd()}) for data.source")
        saved = [name for name in ("dataset_dict.json", "state.json") if (folder / name).exists()]
        try:
            if local and saved:
                return datasets.load_from_disk(str(folder))
            if self._streams:
                return self._builder.as_streaming_dataset()
            files = config.hf_files and {self.part.hf_split: config.hf_files}
            return datasets.load_dataset(str(folder) if local else self.place, config.hf_subset, data_files=files)
        except DataError:
            raise
        except Exception as error:  # the library and its transports raise a dozen unrelated kinds
            raise self._failed(error) from error

    @property
    def _streams(self) -> bool:
        """Whether rows are read from where they lie; what `save_to_disk` wrote is never copied anyhow."""
        folder = Path(self.place).expanduser()
        saved = any((folder / name).exists() for name in ("dataset_dict.json", "state.json"))
        return self.format.config.hf_streaming and not saved

    @cached_property
    def _builder(self) -> Any:
        """What knows the files of the dataset, and their versions, before any is read."""
        datasets, config = _library(self.part.source), self.format.config
        folder = Path(self.place).expanduser()
        files = config.hf_files and {self.part.hf_split: config.hf_files}
        place = str(folder) if folder.is_dir() else self.place
        try:
            return datasets.load_dataset_builder(place, config.hf_subset, data_files=files)
        except Exception as error:  # as in loading
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> DataError:
        reason = " ".join(str(error).split())[:300]
        return DataError(
            f"the dataset {self.part.source} could not be loaded ({type(error).__name__}: {reason}): "
            "check its name and the network, or give a local folder as hf:/path"
        )

    def _split(self, found: Any) -> Any:
        if not isinstance(found, dict):  # one split, saved alone
            return found
        if self.part.hf_split not in found:
            raise DataError(
                f"{self.part.source} has no split '{self.part.hf_split}' (it has {', '.join(found)}): set data.hf_split"
            )
        return found[self.part.hf_split]


def _versions(files: Any) -> list[str]:
    """Return files with what tells one version of them from another: a commit, an ETag, a time of change."""
    return [*map(str, files), *map(str, getattr(files, "origin_metadata", ()))]


def _library(source: str) -> Any:
    try:
        import datasets
    except ImportError:
        raise DataError(
            f"{source} needs the datasets library, which is not installed: pip install 'gptwright[data]'"
        ) from None
    return datasets
