"""Prepared data as Parquet, for other tools: a row a document."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from gptwright.data.contracts import SplitName
from gptwright.data.place import workplace
from gptwright.data.shards import Prepared, TokenStream
from gptwright.errors import DataError

MOST = 1 << 22
"""Most tokens in a row; a longer document has several rows, one after the other, with the same number."""
_TOGETHER = 1 << 20  # tokens that are written together
METADATA = b"gptwright"


class Decoder(Protocol):
    """Turns ids into text."""

    def decode(self, ids: Any) -> str:
        """Return the text of ids."""
        ...


class _Document(NamedTuple):
    number: int
    start: int
    """Where in the split it begins, or this part of it does."""
    tokens: int


def export_parquet(prepared: Prepared, folder: str | Path, *, tokenizer: Decoder | None = None) -> dict[str, Any]:
    """Write ``train.parquet`` and ``val.parquet``, of a mixture one for each part, with the tokenizer beside them.

    Columns are `document` (its number in the file), `ids`, `learn` (where a loss mask says which tokens count) and
    `text` (where ``tokenizer`` is given, which decodes it). The metadata under `gptwright` say what the ids mean.

    Returns:
        `folder`, and for each file under `files` its `documents`, `rows` and `tokens`.

    Raises:
        DataError: pyarrow is missing, ``folder`` is there already, or it cannot be written.
    """
    _library()
    target = Path(folder).expanduser()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise DataError(f"{target} exists and is not empty: choose an empty or new folder for the export")
    files: dict[str, Any] = {}
    with workplace(target, lambda: None) as partial:
        shutil.rmtree(partial)
        shutil.copytree(prepared.tokenizer_folder, partial / "tokenizer")
        for number, part in enumerate(prepared.names):
            for split in ("train", "val"):
                name = f"{split}.parquet" if len(prepared.names) == 1 else f"{part}-{split}.parquet"
                files[name] = _write(partial / name, prepared, split, number, tokenizer)
        if target.exists():
            target.rmdir()
        partial.rename(target)
    return {"folder": str(target), "files": files}


def _write(path: Path, prepared: Prepared, split: SplitName, part: int, tokenizer: Decoder | None) -> dict[str, int]:
    arrow, parquet = _library()
    stream, counts = prepared.split(split, part), {"documents": 0, "rows": 0, "tokens": 0}
    schema = _schema(prepared, stream, split, part, text=tokenizer is not None)
    try:
        with parquet.ParquetWriter(path, schema) as writer:
            for documents in _together(_documents(stream)):
                ids = [stream.read(start, tokens) for _, start, tokens in documents]
                columns: dict[str, Any] = {"document": [number for number, _, _ in documents], "ids": ids}
                if stream.masked:
                    columns["learn"] = [stream.learn(start, tokens) for _, start, tokens in documents]
                if tokenizer is not None:
                    columns["text"] = [tokenizer.decode(each) for each in ids]
                writer.write_table(arrow.table(columns, schema=schema))
                counts["documents"] = documents[-1].number + 1
                counts["rows"] += len(documents)
                counts["tokens"] += sum(len(each) for each in ids)
    except OSError as error:
        raise DataError(f"cannot write {path} ({error.strerror or error}): make room or choose another place") from None
    return counts


def _schema(prepared: Prepared, stream: TokenStream, split: SplitName, part: int, *, text: bool) -> Any:
    arrow, _ = _library()
    index = prepared.index
    number = arrow.uint16() if index.dtype == "uint16" else arrow.uint32()
    fields = [("document", arrow.int64()), ("ids", arrow.list_(number))]
    fields += [("learn", arrow.list_(arrow.bool_()))] if stream.masked else []
    fields += [("text", arrow.string())] if text else []
    facts = {
        "tokenizer": index.tokenizer.to_dict(),
        "fingerprint": prepared.fingerprint,
        "split": split,
        "part": prepared.names[part],
        "format": index.source.get("format", "text"),
    }
    return arrow.schema(fields, metadata={METADATA: json.dumps(facts).encode()})


def _documents(stream: TokenStream) -> Iterator[_Document]:
    """Yield where each document stands; what comes after the last end is one too."""
    number = begin = 0
    for ends in (*stream.ends(), np.array([len(stream)])):
        for end in ends.tolist():
            for start in range(begin, end, MOST):
                yield _Document(number, start, min(MOST, end - start))
            number, begin = number + (end > begin), end


def _together(documents: Iterator[_Document]) -> Iterator[list[_Document]]:
    held, tokens = list[_Document](), 0
    for document in documents:
        held.append(document)
        tokens += document.tokens
        if tokens >= _TOGETHER:
            yield held
            held, tokens = [], 0
    if held:
        yield held


def _library() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError(
            "exporting to Parquet needs pyarrow, which is not installed: pip install 'gptwright[data]'"
        ) from None
    return pyarrow, pyarrow.parquet
