"""Ranked merges as the scores of tokens, where the two give the same ids.

BPE by rank merges the pair that comes first in its list; by score, as sentencepiece does it, the pair whose joint
token has the highest score. They agree if every pair that joins to a token is in the list, and the pairs of a token
stand together.
"""

from collections.abc import Mapping, Sequence

from gptwright.errors import Unsupported


def merge_scores(vocabulary: Mapping[str, int], merges: Sequence[tuple[str, ...]]) -> dict[int, float]:
    """Return the score of each token that merges make, by id.

    Raises:
        Unsupported: scores cannot say what the ranks say; a token is named.
    """
    ranks = {(left, right): rank for rank, (left, right) in enumerate(merges)}
    spans: dict[str, list[int]] = {}
    for token in vocabulary:
        pairs = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        known = [pair for pair in pairs if all(part in vocabulary for part in pair)]
        if _is_byte(token) or not known:
            continue
        missing = [pair for pair in known if pair not in ranks]
        if missing:
            raise _refusal(token, f"'{missing[0][0]}' and '{missing[0][1]}' join to it, and are no merge")
        spans[token] = [ranks[pair] for pair in known]
    _check_apart(spans)
    return {vocabulary[token]: -float(min(found)) for token, found in spans.items()}


def _check_apart(spans: Mapping[str, Sequence[int]]) -> None:
    """Refuse tokens whose merges stand between those of another."""
    last, before = -1, ""
    for token, found in sorted(spans.items(), key=lambda one: min(one[1])):
        if min(found) < last:
            raise _refusal(token, f"its merges stand among those of '{before}'")
        last, before = max(found), token


def _is_byte(token: str) -> bool:
    return len(token) == 6 and token.startswith("<0x") and token.endswith(">")


def _refusal(token: str, why: str) -> Unsupported:
    return Unsupported(
        f"llama.cpp merges by scores of tokens, which cannot say what this tokenizer's ranks say of '{token}': {why}; "
        "export with --to hf, whose tokenizer.json says it all"
    )
