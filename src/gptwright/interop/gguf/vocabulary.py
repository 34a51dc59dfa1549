"""Our tokenizers as vocabularies of llama.cpp, where they give the same ids.

- byte and char are written as the kind that RWKV uses: the longest token that fits, and every character is one;
- byte-level BPE as GPT-2's kind, if llama.cpp knows the rule by which text is split before it is merged;
- sentencepiece-like BPE with byte fallback as Llama's kind, if its merges are those that scores amount to.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from gptwright.errors import Unsupported
from gptwright.interop.gguf.merges import merge_scores
from gptwright.interop.gguf.splitting import adds_space, splitting
from gptwright.tokenizer.base import EOT, Tokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Types of tokens, as GGUF numbers them."""
_NOT_TEXT = "\\xff"  # a byte that is in no UTF-8: no text is taken for a token that begins with it
_NEVER = "a Ġ"  # a merge that no text can need, as words never end in a space: llama.cpp wants at least one
_WAY_OUT = "export with --to hf, whose tokenizer.json says it all"


@dataclass(frozen=True)
class Vocabulary:
    """What GGUF says of a tokenizer."""

    model: str
    """llama.cpp's kind: gpt2, llama, rwkv, or none for a model without a tokenizer."""
    tokens: list[str] = field(default_factory=list)
    types: list[int] = field(default_factory=list)
    pre: str | None = None
    """The rule by which text is split, of kind gpt2."""
    merges: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    space: bool = False
    """Whether a space is put before text."""
    begin: tuple[int, ...] = ()
    end: tuple[int, ...] = ()
    chat_template: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """The kind with its rule."""
        return f"{self.model} ({self.pre})" if self.pre else self.model


def vocabulary_of(tokenizer: Tokenizer | None, size: int) -> Vocabulary:
    """Return the vocabulary for a model of ``size`` ids; ids that mean nothing are padding.

    Raises:
        Unsupported: llama.cpp would give other ids; the message says why.
    """
    if tokenizer is None:
        return Vocabulary("none", notes=("there is no tokenizer, so that llama.cpp takes and gives ids alone",))
    found = _padded(_letters(tokenizer) if tokenizer.type_name() in ("byte", "char") else _merging(tokenizer), size)
    begin, end = tokenizer.prefix_ids, tokenizer.end_ids
    notes = (*found.notes, *_notes(found, begin, end))
    return replace(found, begin=begin, end=end, chat_template=tokenizer.chat_template, notes=notes)


def add_vocabulary(writer: Any, found: Vocabulary) -> None:
    """Add a vocabulary to a `gguf.GGUFWriter`."""
    writer.add_tokenizer_model(found.model)
    if found.model == "none":
        return
    writer.add_token_list(found.tokens)
    writer.add_token_types(found.types)
    if found.pre:
        writer.add_tokenizer_pre(found.pre)
        writer.add_token_merges(found.merges)
    if found.scores:
        writer.add_token_scores(found.scores)
        writer.add_add_space_prefix(found.space)
    if UNKNOWN in found.types:
        writer.add_unk_token_id(found.types.index(UNKNOWN))
    if found.begin:
        writer.add_bos_token_id(found.begin[0])
    elif found.end and found.model != "rwkv":
        writer.add_bos_token_id(found.end[0])  # else it would be some ordinary token
    adds = (writer.add_eos_token_id, writer.add_eot_token_id, writer.add_eom_token_id)
    for add, id in zip(adds, found.end, strict=False):
        add(id)
    writer.add_add_bos_token(bool(found.begin))
    writer.add_add_eos_token(False)
    if found.chat_template:
        writer.add_chat_template(found.chat_template)


def _notes(found: Vocabulary, begin: tuple[int, ...], end: tuple[int, ...]) -> Iterator[str]:
    if not end and found.model != "rwkv":
        yield "the tokenizer has no token that ends a text, and llama.cpp takes an ordinary one for it"
    if len(begin) > 1:
        yield f"texts begin with {len(begin)} tokens, of which llama.cpp puts the first"
    if len(end) > 3:
        yield f"{len(end)} tokens end a text, of which the first 3 are written"


def _letters(tokenizer: Tokenizer) -> Vocabulary:
    """Return a vocabulary in which every token but the end of text is taken as it is written."""
    ids = range(tokenizer.vocab_size)
    tokens = [_NOT_TEXT + EOT if id == tokenizer.eot_id else _escaped(tokenizer.token_bytes(id)) for id in ids]
    return Vocabulary("rwkv", tokens, [CONTROL if id == tokenizer.eot_id else NORMAL for id in ids])


def _escaped(content: bytes) -> str:
    """Return bytes as printable text: what is no text, no printable ASCII, or a backslash as ``\\xHH``."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return "".join(f"\\x{byte:02x}" for byte in content)
    return "".join(f"\\x{ord(c):02x}" if c == "\\" or ord(c) < 32 or ord(c) == 127 else c for c in text)


def _merging(tokenizer: Tokenizer) -> Vocabulary:
    """Return the vocabulary of a tokenizer that is kept as a ``tokenizer.json``."""
    kind, contents = tokenizer.type_name(), tokenizer.contents()
    if "tokenizer.json" not in contents:
        raise Unsupported(f"llama.cpp has no vocabulary for a tokenizer of kind {kind}; use byte, char or bpe")
    table: dict[str, Any] = json.loads(contents["tokenizer.json"])
    model = table["model"]
    if model.get("type") != "BPE" or model.get("end_of_word_suffix") or model.get("continuing_subword_prefix"):
        what = model.get("type") if model.get("type") != "BPE" else "BPE with marks at the ends of words"
        raise Unsupported(f"the {kind} tokenizer is {what}, and GGUF vocabularies are made of BPE of bytes; {_WAY_OUT}")
    merges = [tuple(one.split(" ", 1)) if isinstance(one, str) else tuple(one) for one in model["merges"]]
    tokens, types = _typed(table)
    pre = splitting(table)
    if pre is not None:
        joined = [" ".join(one) for one in merges] or [_NEVER]
        return Vocabulary("gpt2", tokens, types, pre, joined, notes=_unlike(table))
    if not model.get("byte_fallback"):
        raise Unsupported(
            f"the {kind} tokenizer splits text by a rule that llama.cpp does not know "
            f"({json.dumps(table.get('pre_tokenizer'))[:120]}); {_WAY_OUT}"
        )
    special = {one["id"] for one in table.get("added_tokens", ())}
    scores = merge_scores({token: id for token, id in model["vocab"].items() if id not in special}, merges)
    every = [scores.get(id, 0.0) for id in range(len(tokens))]
    return Vocabulary("llama", tokens, types, scores=every, space=adds_space(table))


def _unlike(table: dict[str, Any]) -> tuple[str, ...]:
    kind = (table.get("normalizer") or {}).get("type")
    return (f"the tokenizer normalises text ({kind}), and llama.cpp does not",) if kind else ()


def _typed(table: dict[str, Any]) -> tuple[list[str], list[int]]:
    """Return the token and the type of each id."""
    model = table["model"]
    found = {id: (token, NORMAL) for token, id in model["vocab"].items()}
    if model.get("byte_fallback"):
        names = {f"<0x{byte:02X}>" for byte in range(256)}
        found |= {id: (token, BYTE) for id, (token, _) in found.items() if token in names}
    for one in table.get("added_tokens", ()):
        found[one["id"]] = (one["content"], CONTROL if one["special"] else USER_DEFINED)
    found |= {id: (token, UNKNOWN) for id, (token, _) in found.items() if token == model.get("unk_token")}
    every = [found.get(id, (f"[PAD{id}]", UNUSED)) for id in range(max(found) + 1)]
    return [token for token, _ in every], [type for _, type in every]


def _padded(found: Vocabulary, size: int) -> Vocabulary:
    """Return a vocabulary of ``size`` ids.

    Raises:
        Unsupported: there are more tokens than the model has ids.
    """
    count = len(found.tokens)
    if count > size:
        raise Unsupported(
            f"the tokenizer has {count} tokens and the model's vocab_size is {size}; they do not belong together"
        )
    mark = _NOT_TEXT if found.model == "rwkv" else ""
    return replace(
        found,
        tokens=[*found.tokens, *(f"{mark}[PAD{id}]" for id in range(count, size))],
        types=[*found.types, *[UNUSED] * (size - count)],
        scores=[*found.scores, *[0.0] * (size - count)] if found.scores else [],
    )
