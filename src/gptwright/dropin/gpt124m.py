"""The GPT of 124 million parameters as a dictionary and a class: norms before each part, a head of its own."""

from typing import Any

from pydantic import Field

from gptwright.dropin.face import Face
from gptwright.dropin.translate import Words

GPT_CONFIG_124M: dict[str, Any] = {
    "vocab_size": 50257,
    "context_length": 1024,
    "emb_dim": 768,
    "n_heads": 12,
    "n_layers": 12,
    "drop_rate": 0.1,
    "qkv_bias": False,
}
"""The published sizes; change a copy of it for other models."""


class GPTConfig(Words):
    """The keys of the dictionary."""

    vocab_size: int
    """Size of the vocabulary."""
    context_length: int
    """Maximum sequence length."""
    emb_dim: int
    """Embedding dimension."""
    n_heads: int
    """Attention heads."""
    n_layers: int
    """Transformer blocks."""
    drop_rate: float = Field(default=0.0, ge=0, lt=1)
    """Probability of dropping elements of the embeddings, and attention weights."""
    qkv_bias: bool = False
    """Whether the query, key and value projections have biases."""


class GPTModel(Face):
    """The model; ``config`` is a dictionary such as `GPT_CONFIG_124M`."""

    def __init__(self, config: Any) -> None:
        words = GPTConfig.read(config)
        super().__init__(
            words.to_model(
                attention={"type": "softmax", "attention_dropout": words.drop_rate},
                feed_forward={"type": "mlp", "activation": "gelu_tanh"},
                norm="layer_norm",
                position="learned",
                bias=True,
                tie_embeddings=False,
            )
        )
        for layer in self.layers:
            layer.dropout.p = 0.0  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType] - embeddings and weights only
