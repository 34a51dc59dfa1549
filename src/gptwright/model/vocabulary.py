"""Token ids that a model knows, and the sentence about others."""

from collections.abc import Sequence

from gptwright.errors import GptwrightError


def unknown(low: int, high: int, vocab_size: int) -> GptwrightError:
    """Return the error that says that ids from ``low`` to ``high`` are not all in the vocabulary."""
    return GptwrightError(
        f"token ids run from {low} to {high}, but the vocabulary has {vocab_size} tokens (0 to {vocab_size - 1}); "
        "encode the text with the tokenizer that this model was trained with"
    )


def check_ids(ids: Sequence[int], vocab_size: int) -> None:
    """Refuse an empty list of ids, and ids outside of the vocabulary."""
    if not len(ids):
        raise GptwrightError("the prompt has no token; give at least one")
    low, high = min(ids), max(ids)
    if low < 0 or high >= vocab_size:
        raise unknown(low, high, vocab_size)
