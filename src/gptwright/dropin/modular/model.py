"""The model of the modular design."""

from typing import Any

from gptwright.dropin.face import Face
from gptwright.dropin.modular.config import GPTConfig


class GPTModel(Face):
    """The model; ``config`` is a namespace or a dictionary with the keys of `GPTConfig`."""

    def __init__(self, config: Any) -> None:
        words = GPTConfig.read(config)
        kinds = {"attention": "attention", "feed_forward": "ffn", "norm": "norm"}
        super().__init__(words.to_model(**{slot: words.settings(kind) for slot, kind in kinds.items()}))

    def get_num_params(self, non_embedding: bool = False) -> int:
        """Count parameters, shared ones once; ``non_embedding`` leaves out the position embeddings."""
        positions = sum(p.numel() for p in self.position.parameters()) if non_embedding else 0
        return self.num_params() - positions
