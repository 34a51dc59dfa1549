"""What a run trains and validates on: prepared shards, their tokenizer, and batches as tensors.

Shapes: R rows of the global batch, T context.
"""

import numpy as np
import torch

from gptwright.data.contracts import Progress
from gptwright.data.packing import Documents
from gptwright.data.prepare import prepare
from gptwright.data.rows import TrainRows, open_packing
from gptwright.data.shards import Prepared
from gptwright.errors import ConfigError
from gptwright.evaluate.likelihood import as_batch, byte_lengths, score_parts
from gptwright.model.batch import Batch
from gptwright.model.gpt import GPT
from gptwright.model.score import Score
from gptwright.tokenizer.base import Tokenizer
from gptwright.tokenizer.load import load as load_tokenizer
from gptwright.tokenizer.load import make_tokenizer
from gptwright.train.config import RunConfig


class RunData:
    """The data of one run: a pure function from numbers of rows to a batch, and the whole validation split."""

    def __init__(self, config: RunConfig, prepared: Prepared, device: torch.device) -> None:
        self.config, self.prepared, self.device = config, prepared, device
        self.tokenizer: Tokenizer = load_tokenizer(prepared.tokenizer_folder, trust_code=True)
        self.context = config.model.max_seq_len
        data = config.require_data()
        self.rows = TrainRows(data, prepared, self.context, config.train.seed)
        self._val = {  # opened now, and not at the first evaluation: too little text is refused before any work
            name: open_packing(data, prepared, "val", self.context, part) for part, name in enumerate(prepared.names)
        }
        self._sizes: np.ndarray | None = None

    @classmethod
    def open(
        cls,
        config: RunConfig,
        device: torch.device,
        progress: Progress | None = None,
        tokenizer: Tokenizer | None = None,
    ) -> "RunData":
        """Prepare the source that ``config`` names, or open what was prepared before.

        ``tokenizer`` is used as it is, where a run goes on from another model; by default one is made.
        """
        data = config.require_data()
        prepared = prepare(data, make_tokenizer=make_tokenizer, tokenizer=tokenizer, progress=progress)
        return cls(config, prepared, device)

    def batch(self, first: int, count: int) -> Batch:
        """Return rows number ``first`` to ``first + count`` of the training text, counted over all epochs."""
        return as_batch(self.rows.read(first, count), self.device)

    @property
    def rows_per_epoch(self) -> int:
        """Rows after which the text has been seen once; of a mixture, every part at least once."""
        return self.rows.rows_per_epoch

    def epochs(self, rows: int) -> dict[str, float]:
        """Return how often each part, by its name, has been seen after ``rows`` rows."""
        return dict(zip(self.prepared.names, self.rows.epochs(rows), strict=True))

    def check(self) -> None:
        """Look whether a file of the data was touched since it was opened; one that was is hashed again.

        Raises:
            DataError: it is gone or has changed; it is named.
        """
        self.prepared.check()
        for packing in (*self.rows.packings, *self._val.values()):
            if isinstance(packing, Documents):
                packing.plan.check()

    def prompt(self, tokens: int) -> np.ndarray:
        """Return the first ``tokens`` ids of the validation split; of examples, the first one's prompt."""
        stream = self.prepared.split("val")
        most = min(max(tokens, self.context) if stream.masked else tokens, len(stream))
        learnt = np.flatnonzero(stream.learn(0, most)) if stream.masked else np.empty(0)
        return stream.read(0, int(learnt[0]) if learnt.size and learnt[0] else min(tokens, most))

    def validate(self, model: GPT) -> Score:
        """Score ``model`` on the whole validation split, of a mixture on each part too (`Score.parts`)."""
        if self._sizes is None:
            self._sizes = byte_lengths(self.tokenizer)
        return score_parts(model, self._val, self._sizes)


def with_vocabulary(config: RunConfig, tokenizer: Tokenizer) -> RunConfig:
    """Return ``config`` with the model's vocabulary taken from the tokenizer where it is not set.

    Raises:
        ConfigError: the model's vocabulary is too small for the tokenizer.
    """
    given, needed = config.model.vocab_size, tokenizer.vocab_size
    if given is None:
        return config.model_copy(update={"model": config.model.model_copy(update={"vocab_size": needed})})
    if given < needed:
        raise ConfigError(
            f"model.vocab_size is {given}, but the tokenizer has {needed} tokens; "
            "leave model.vocab_size out to take it from the tokenizer, or raise it"
        )
    return config
