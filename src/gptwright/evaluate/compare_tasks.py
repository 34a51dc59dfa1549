"""Two models at the same tasks: each metric, question by question."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gptwright.errors import DataError
from gptwright.evaluate.comparison import Comparison
from gptwright.evaluate.interval import ratio_difference


def compare_tasks(
    first: Mapping[str, Any], second: Mapping[str, Any], *, names: tuple[str, str] = ("A", "B"), seed: int = 0
) -> list[Comparison]:
    """Compare two models by every metric of the tasks that both were given, document by document.

    Args:
        first: what `gptwright.evaluate.harness.run_tasks` returned for one model, with ``samples=True``.
        second: the same for another, with the same tasks, limits and seed.
        names: what the models are called.
        seed: of the intervals' draws.

    Raises:
        DataError: the two did not answer the same documents.
    """
    found = []
    for task, samples in first["samples"].items():
        theirs = second["samples"].get(task, [])
        for (metric, chosen_by), pairs in _paired(task, samples, theirs).items():
            higher = first["higher_is_better"].get(task, {}).get(metric)
            name = f"{task} {metric}" if chosen_by == "none" else f"{task} {metric} ({chosen_by})"
            found.append(_of_metric(name, pairs, names, higher, seed))
    return found


def _paired(
    task: str, first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]]
) -> dict[tuple[str, str], list[tuple[Any, Any]]]:
    """Return the values of both models for each document, by metric and filter; only those that are numbers."""
    theirs = {(sample["filter"], sample["doc_id"]): sample for sample in second}
    found: dict[tuple[str, str], list[tuple[Any, Any]]] = {}
    for sample in first:
        other = theirs.get((sample["filter"], sample["doc_id"]))
        if other is None or other["doc_hash"] != sample["doc_hash"]:
            raise DataError(
                f"the two models did not answer the same documents of task '{task}' (document {sample['doc_id']}); "
                "run both with the same task files, limit and seed"
            )
        for metric in sample["metrics"]:
            pair = (sample[metric], other.get(metric))
            if all(_parts(value) is not None for value in pair):
                found.setdefault((metric, sample["filter"]), []).append(pair)
    return found


def _parts(value: Any) -> tuple[float, float] | None:
    """Return a figure with its weight: a number has the weight 1, perplexities come as log-likelihood and weight."""
    if isinstance(value, bool | int | float | np.number):
        return float(value), 1.0
    if (
        isinstance(value, tuple | list)
        and len(value) == 2
        and all(isinstance(x, int | float | np.number) for x in value)
    ):
        return -float(value[0]), float(value[1])
    return None


def _of_metric(
    name: str, pairs: Sequence[tuple[Any, Any]], names: tuple[str, str], higher: bool | None, seed: int
) -> Comparison:
    ours, theirs = (np.array([_parts(pair[side]) for pair in pairs]).T for side in (0, 1))
    weighted = isinstance(pairs[0][0], tuple | list)
    found = ratio_difference(ours[0], ours[1], theirs[0], theirs[1], seed=seed)
    values = tuple(float(sums[0].sum() / sums[1].sum()) for sums in (ours, theirs))
    if weighted:
        name = f"{name} in nats"
    return Comparison(names, name, values, found, not weighted and higher is not False, "questions")  # pyright: ignore[reportArgumentType] - two of them
