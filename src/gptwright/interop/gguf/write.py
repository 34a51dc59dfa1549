"""Export as GGUF, the file format of llama.cpp (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).

One file holds settings, vocabulary and tensors. Tensors are converted and written one at a time, so that memory does
not grow with the model.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from gptwright.errors import DataError, GptwrightError, Unsupported
from gptwright.interop.gguf.library import library
from gptwright.interop.gguf.settings import add_settings
from gptwright.interop.gguf.shapes import Match, match
from gptwright.interop.gguf.tensors import Counted, Named, named_arrays
from gptwright.interop.gguf.vocabulary import add_vocabulary, vocabulary_of
from gptwright.interop.trained import Trained

GgufType = Literal["f32", "f16", "bf16", "q8_0"]
TYPES: tuple[GgufType, ...] = ("f32", "f16", "bf16", "q8_0")
_FILE_TYPE = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}
_BLOCK = 32  # numbers that share a scale in Q8_0; a row must be a multiple of it
_KEPT = ("position_embd", "ffn_gate_inp")  # matrices that llama.cpp wants in fp32


class _Planned(NamedTuple):
    """A tensor before it is written."""

    tensor: Named
    kind: Any
    """The type in which it is written."""


def write_gguf(
    trained: Trained, file: str | Path, *, dtype: GgufType = "f16", name: str | None = None
) -> dict[str, Any]:
    """Write a trained model as GGUF for llama.cpp, and return facts about it.

    Args:
        trained: settings, tensors and tokenizer.
        file: where to; a file that is there is replaced when the new one is whole.
        dtype: type of matrices; vectors, positions and routers stay f32. Rows that `q8_0` cannot divide into blocks
            of 32 numbers are f16.
        name: what the model is called. Default the file's name.

    Returns:
        `file`, `architecture`, `dtype`, `bytes`, `tensors`, `parameters`, `kept_f16` (names of matrices that are not in
        q8_0), `vocabulary` and `notes`.

    Raises:
        Unsupported: llama.cpp has no architecture for the model, or no vocabulary for its tokenizer.
        GptwrightError: the gguf package is missing, or the type is unknown.
        DataError: the file cannot be written.
    """
    if dtype not in TYPES:
        raise GptwrightError(f"dtype is '{dtype}', and GGUF files are written as {', '.join(TYPES)}; choose one")
    found = match(trained.config)
    vocabulary = vocabulary_of(trained.tokenizer, trained.config.require_vocab_size())
    gguf, path = library(), Path(file)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = gguf.GGUFWriter(beside, found.architecture.name)
        writer.add_name(name or path.stem)
        writer.add_file_type(gguf.LlamaFileType[_FILE_TYPE[dtype]])
        if dtype == "q8_0":
            writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        add_settings(writer, found, trained.config)
        add_vocabulary(writer, vocabulary)
        tensors = Counted(trained.tensors)
        planned = [_planned(tensor, dtype) for tensor in named_arrays(tensors, found, trained.config)]
        _write(writer, planned)
        if tensors.unseen:
            raise Unsupported(
                f"{found.architecture.name} has no place for {', '.join(tensors.unseen[:4])} ({len(tensors.unseen)} "
                "tensors that the settings do not speak of): the weights are of another model"
            )
        beside.replace(path)
    except OSError as error:
        raise DataError(f"cannot write {path} ({error.strerror or error}): make room or choose another place") from None
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
    return _facts(path, dtype, found, planned, vocabulary.kind, vocabulary.notes)


def _planned(tensor: Named, dtype: GgufType) -> _Planned:
    kinds = library().GGMLQuantizationType
    if len(tensor.shape) == 1 or tensor.name.split(".")[-2] in _KEPT:
        return _Planned(tensor, kinds.F32)
    if dtype == "q8_0" and tensor.shape[-1] % _BLOCK:
        return _Planned(tensor, kinds.F16)
    return _Planned(tensor, kinds[dtype.upper()])


def _write(writer: Any, planned: list[_Planned]) -> None:
    for tensor, kind in planned:
        _announce(writer, tensor, kind)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor, kind in planned:
            writer.write_tensor_data(converted(tensor.array(), kind))
    finally:
        writer.close()


def _announce(writer: Any, tensor: Named, kind: Any) -> None:
    """Tell the writer of a tensor that is to come."""
    gguf = library()
    plain = {gguf.GGMLQuantizationType.F32: np.float32, gguf.GGMLQuantizationType.F16: np.float16}
    if kind in plain:
        stored = np.dtype(plain[kind])
        size = int(np.prod(tensor.shape)) * stored.itemsize
        writer.add_tensor_info(tensor.name, tensor.shape, stored, size)
    else:
        shape = gguf.quants.quant_shape_to_byte_shape(tensor.shape, kind)
        writer.add_tensor_info(tensor.name, shape, np.dtype(np.uint8), int(np.prod(shape)), raw_dtype=kind)


def converted(array: np.ndarray, kind: Any) -> np.ndarray:
    """Return a fp32 array in the type ``kind`` of the gguf package."""
    return library().quants.quantize(np.ascontiguousarray(array), kind)


def _facts(
    path: Path, dtype: str, found: Match, planned: list[_Planned], vocabulary: str, notes: tuple[str, ...]
) -> dict[str, Any]:
    kept = list(_not_in(planned, dtype))
    said = [*found.notes, *notes]
    if kept:
        said.append(f"{len(kept)} matrices are f16, as q8_0 needs rows of a multiple of {_BLOCK} numbers")
    return {
        "file": str(path),
        "architecture": found.architecture.name,
        "dtype": dtype,
        "bytes": path.stat().st_size,
        "tensors": len(planned),
        "parameters": sum(int(np.prod(tensor.shape)) for tensor, _ in planned),
        "kept_f16": kept,
        "vocabulary": vocabulary,
        "notes": said,
    }


def _not_in(planned: list[_Planned], dtype: str) -> Iterator[str]:
    return (tensor.name for tensor, kind in planned if dtype == "q8_0" and kind.name == "F16")
