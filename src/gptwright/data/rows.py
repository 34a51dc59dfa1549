"""Prepared data as rows of one length: which packing, which parts, and what each number of a row stands for."""

from collections.abc import Callable

import numpy as np

from gptwright.data.config import DataConfig
from gptwright.data.contracts import SplitName
from gptwright.data.packing import Documents, Packing, Rows, Windows
from gptwright.data.plan import open_plan
from gptwright.data.sampler import Mixer, Order, mix
from gptwright.data.shards import Prepared

_WHAT = {"train": "the train split", "val": "the validation split"}


def open_packing(config: DataConfig, prepared: Prepared, split: SplitName, context: int, part: int = 0) -> Packing:
    """Return the rows of ``context`` tokens of a split of one part, packed as ``config`` says.

    Raises:
        DataError: there is too little text for a row.
    """
    return _PACKINGS[config.packed](config, prepared, split, context, part)


def _windows(config: DataConfig, prepared: Prepared, split: SplitName, context: int, part: int) -> Packing:
    del config
    of = f" of part {prepared.names[part]}" if len(prepared.names) > 1 else ""
    return Windows(prepared.split(split, part), context, _WHAT[split] + of)


def _planned(config: DataConfig, prepared: Prepared, split: SplitName, context: int, part: int) -> Packing:
    stream = prepared.split(split, part)
    answers_only = stream.masked and config.train_on == "completions"
    how = config.packed if answers_only or not stream.masked else f"{config.packed}-all"
    folder = prepared.folder / "plans" / f"{how}-{context}-{split}-{part}-{prepared.fingerprint[:16]}"
    share = config.packed == "documents"
    plan = open_plan(stream, folder, context, share=share, answers_only=answers_only, what=_WHAT[split])
    return Documents(stream, plan, answers_only=answers_only)


_PACKINGS: dict[str, Callable[[DataConfig, Prepared, SplitName, int, int], Packing]] = {
    "stream": _windows,
    "documents": _planned,
    "pad": _planned,
}


class TrainRows:
    """The training rows of all parts, numbered from 0 over all epochs: a pure function of the seed and the number."""

    def __init__(self, config: DataConfig, prepared: Prepared, context: int, seed: int) -> None:
        self.context = context
        self.packings = [
            open_packing(config, prepared, "train", context, number) for number in range(len(config.parts))
        ]
        self._orders = [Order(packing.n_rows, _seed(seed, part)) for part, packing in enumerate(self.packings)]
        self.mixer = Mixer([part.weight for part in config.parts])

    @property
    def rows_per_epoch(self) -> int:
        """Rows after which every part has been seen whole, at least once."""
        return max(self.mixer.numbers_until(part, packing.n_rows) for part, packing in enumerate(self.packings))

    def read(self, first: int, count: int) -> Rows:
        """Return rows number ``first`` to ``first + count``."""
        parts, ranks = self.mixer.deal(first + np.arange(count, dtype=np.int64))
        if len(self.packings) == 1:
            return self.packings[0].rows(*self._orders[0].draw(ranks))
        found = np.zeros((3, count, self.context), dtype=np.int64)
        bounded = False
        for part in np.unique(parts).tolist():
            mine = parts == part
            inputs, targets, segments = self.packings[part].rows(*self._orders[part].draw(ranks[mine]))
            found[0, mine], found[1, mine] = inputs, targets
            if segments is not None:
                bounded, found[2, mine] = True, segments
        return Rows(found[0], found[1], found[2] if bounded else None)

    def epochs(self, rows: int) -> list[float]:
        """Return how often each part has been seen after ``rows`` rows."""
        whole = rows // self.mixer.period * self.mixer.period
        parts = self.mixer.deal(np.arange(whole, rows))[0]
        seen = np.bincount(parts, minlength=len(self.packings)) + whole // self.mixer.period * np.array(
            self.mixer.counts
        )
        return [float(n) / packing.n_rows for n, packing in zip(seen, self.packings, strict=True)]


def _seed(seed: int, part: int) -> int:
    """Return a seed for each part; the first has the run's own."""
    return seed if part == 0 else int(mix(np.array([(seed + part) % (1 << 64)], dtype=np.uint64))[0])
