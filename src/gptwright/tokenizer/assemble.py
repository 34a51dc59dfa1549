"""A folder's files as the ``tokenizers`` library reads them, with what settings add, and how texts begin and end."""

from collections.abc import Mapping, Sequence
from itertools import groupby

from tokenizers import AddedToken
from tokenizers import Tokenizer as Library

from gptwright.errors import DataError
from gptwright.tokenizer import folder as files_of
from gptwright.tokenizer.base import EOT, write_json
from gptwright.tokenizer.merges import from_merges


def assemble(contents: Mapping[str, bytes], named: Mapping[str, str], limit: int | None) -> Library:
    """Return the tokenizer of a folder's files, with the tokens that its settings add to it.

    Args:
        contents: the files, as `gptwright.tokenizer.folder.read` gives them.
        named: the named special tokens.
        limit: ids of the model, where that is known.

    Raises:
        DataError: it is damaged, or has tokens that the model has no rows for.
    """
    library = _parsed(contents[files_of.LIBRARY]) if files_of.LIBRARY in contents else from_merges(contents)
    library.no_truncation()
    library.no_padding()
    others = [AddedToken(text, **flags) for text, flags in files_of.other_tokens(contents)]
    special = [AddedToken(text, special=True, normalized=False) for text in named.values()]
    wanted = _with_rows(library, [*others, *special], limit)
    for are_special, group in groupby(wanted, key=lambda token: token.special):  # many at once: each call is slow
        (library.add_special_tokens if are_special else library.add_tokens)(list(group))
    return _within(library, limit)


def _with_rows(library: Library, tokens: Sequence[AddedToken], limit: int | None) -> list[AddedToken]:
    """Return the tokens that are there already or for which a model of ``limit`` rows has one."""
    room = len(tokens) if limit is None else max(0, limit - _size(library))
    new = [token.content for token in tokens if library.token_to_id(token.content) is None]
    without = set(list(dict.fromkeys(new))[room:])
    return [token for token in tokens if token.content not in without]


def _size(library: Library) -> int:
    return max(library.get_vocab(with_added_tokens=True).values(), default=-1) + 1


def _parsed(content: bytes) -> Library:
    try:
        return Library.from_buffer(content)
    except BaseException as error:  # bare Exception, or a panic of the library, which is no Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise DataError(f"there is no readable {files_of.LIBRARY} ({reason}): save the tokenizer again") from None


def _within(library: Library, limit: int | None) -> Library:
    """Return ``library`` without added tokens that a model of ``limit`` rows does not have.

    Raises:
        DataError: tokens that are no added ones would be missing.
    """
    if limit is None or _size(library) <= limit:
        return library
    base = max(library.get_vocab(with_added_tokens=False).values(), default=-1) + 1
    if base > limit:
        raise DataError(
            f"the tokenizer has {base} tokens and the model only {limit} rows for them: give the tokenizer that "
            "belongs to the model"
        )
    table = files_of.settings({files_of.LIBRARY: library.to_str().encode()}, files_of.LIBRARY)
    table["added_tokens"] = [token for token in table["added_tokens"] if token["id"] < limit]
    return _parsed(write_json(table))


def ends_of(named: Mapping[str, str], known: Mapping[str, int], further: Sequence[int], size: int) -> tuple[int, ...]:
    """Return the ids that end a text, the one that stands between documents first.

    The tokenizer's own ``eos_token`` comes first: it is what stood after each document when the model learnt. Then what
    was asked for, then what generation stops on (which of a chat model is often the end of a turn). Ids that no row
    has cannot be met and are left out, as settings of cut-down models often name them.
    """
    end = named.get("eos_token", "")
    found = [*([known[end]] if end in known else []), *further]
    if not found and EOT in known:
        found = [known[EOT]]
    return tuple(dict.fromkeys(id for id in found if 0 <= id < size))


def prefix_of(library: Library) -> tuple[int, ...]:
    """Return what the library puts before a text."""
    found = library.encode("a")
    mask = [*found.special_tokens_mask, 0]
    return tuple(found.ids[: mask.index(0)]) if found.ids else ()
