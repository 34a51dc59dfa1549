"""What a run trains and validates on: prepared shards, their tokenizer, and batches as tensors.

Shapes: R rows of the global batch, T context.
"""

import numpy as np
import torch

from gptwright.data.contracts import Progress
from gptwright.data.prepare import prepare
from gptwright.data.sampler import Sampler, batch, check_length
from gptwright.data.shards import Prepared
from gptwright.errors import ConfigError
from gptwright.evaluate.likelihood import score_split
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
        self._train = prepared.split("train")
        self._val = prepared.split("val")
        self._sampler = Sampler(len(self._train), self.context, config.train.seed)
        check_length(len(self._val), self.context, "validation")  # now, and not at the first evaluation

    @classmethod
    def open(cls, config: RunConfig, device: torch.device, progress: Progress | None = None) -> "RunData":
        """Prepare the source that ``config`` names, or open what was prepared before."""
        prepared = prepare(config.require_data(), make_tokenizer=make_tokenizer, progress=progress)
        return cls(config, prepared, device)

    def batch(self, first: int, count: int) -> Batch:
        """Return rows number ``first`` to ``first + count`` of the training text, counted over all epochs."""
        inputs, targets = batch(self._train, self._sampler.starts(first, count), self.context)
        return Batch(torch.from_numpy(inputs).to(self.device), torch.from_numpy(targets).to(self.device))

    @property
    def rows_per_epoch(self) -> int:
        """Rows after which the text has been seen once."""
        return self._sampler.n_windows

    def prompt(self, tokens: int) -> np.ndarray:
        """Return the first ``tokens`` ids of the validation split."""
        return self._val.read(0, min(tokens, len(self._val)))

    def validate(self, model: GPT) -> Score:
        """Score ``model`` on the whole validation split."""
        return score_split(model, self._val, self.prepared.val.bytes, self.tokenizer)


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
