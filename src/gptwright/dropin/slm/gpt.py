"""The model: token and position embeddings, blocks, and the head that gives logits."""

from typing import Any

from gptwright.dropin.face import Face
from gptwright.dropin.slm.config import GPTConfig


class GPT(Face):
    """The whole model; ``config`` is a `GPTConfig`, or a dictionary or namespace with its keys."""

    def __init__(self, config: Any) -> None:
        words = GPTConfig.read(config)
        super().__init__(words.model())
        self.words = words
