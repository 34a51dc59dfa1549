"""The tokenizer that files of token ids were made with, by any name that it goes by."""

import io
import pickle
from pathlib import Path
from typing import Any, NoReturn

from gptwright.errors import DataError
from gptwright.tokenizer.base import Tokenizer
from gptwright.tokenizer.kinds.byte import Byte
from gptwright.tokenizer.kinds.char import Char
from gptwright.tokenizer.kinds.pretrained import Pretrained
from gptwright.tokenizer.load import load

_MOST = 1 << 26  # bytes of a meta.pkl; one of characters has some thousands
_KINDS = ("byte", "char", "bpe")


def tokenizer_named(name: str | Path, *, trust_code: bool = False) -> Tokenizer:
    """Return the tokenizer that ``name`` stands for.

    Args:
        name: a folder that holds one (of ours, of a run, or of the Hugging Face world), a tokenizer.json, nanoGPT's
            ``meta.pkl``, ``byte``, or ``owner/name`` of the hub.
        trust_code: whether a kind of one's own, named in the folder, may be imported.

    Raises:
        DataError: there is none.
    """
    if str(name) == "byte":
        return Byte(Byte.Config(), with_eot=True)
    path = Path(name).expanduser()
    if str(name) in _KINDS and not path.exists():
        raise DataError(f"--tokenizer {name} must be learnt from text, and there are only ids: name its folder")
    if path.suffix == ".pkl":
        return char_from_meta(path)
    if (path / "kind.json").exists():
        return load(path, trust_code=trust_code)
    if (path / "tokenizer" / "kind.json").exists():  # prepared data, or a checkpoint
        return load(path / "tokenizer", trust_code=trust_code)
    return Pretrained.train(Pretrained.Config(source=str(name)), (), with_eot=True)


def char_from_meta(path: str | Path) -> Char:
    """Return the characters that nanoGPT's ``meta.pkl`` lists, reading it without importing anything it names.

    Raises:
        DataError: it cannot be read, holds more than plain data, or lists no sorted characters.
    """
    path = Path(path)
    try:
        if path.stat().st_size > _MOST:
            raise DataError(f"{path} has {path.stat().st_size} bytes, and a list of characters has at most {_MOST}")
        found = _Plain(io.BytesIO(path.read_bytes())).load()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    except DataError:
        raise
    except Exception as error:  # a damaged pickle raises nearly anything
        raise DataError(f"{path} is no readable pickle ({type(error).__name__}: {error}): make it again") from None
    return _characters(found, path)


def _characters(found: Any, path: Path) -> Char:
    letters = found.get("itos") if isinstance(found, dict) else None
    ids = sorted(letters) if isinstance(letters, dict) and all(isinstance(id, int) for id in letters) else []
    text = [letters[id] for id in ids] if letters else []
    if not ids or ids != list(range(len(ids))) or not all(isinstance(each, str) and len(each) == 1 for each in text):
        raise DataError(f"{path} lists no characters under 'itos' from id 0 on: name the ids' own tokenizer")
    if sorted(set(text)) != text:
        raise DataError(f"{path} lists characters that are not sorted and distinct, as char has them: use another")
    return Char(Char.Config(), "".join(text), with_eot=False)


class _Plain(pickle.Unpickler):
    """Reads numbers, text, lists and dictionaries, and refuses everything that would have to be imported."""

    def find_class(self, module_name: str, global_name: str, /) -> NoReturn:
        """Refuse.

        Raises:
            DataError: always.
        """
        raise DataError(
            f"the pickle wants to import {module_name}.{global_name}, and a list of characters needs nothing of the "
            "kind: it is not nanoGPT's meta.pkl, and is not opened"
        )
