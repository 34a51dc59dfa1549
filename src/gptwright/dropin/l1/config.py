"""Settings of L1 and its four sizes."""

from typing import Any, Literal, Self

from pydantic import Field

from gptwright.config.report import did_you_mean
from gptwright.dropin.translate import Words
from gptwright.errors import ConfigError
from gptwright.model.config import ModelConfig

SIZES: dict[str, dict[str, int]] = {
    "tiny": {"n_layers": 2, "n_heads": 4, "n_embd": 128},
    "small": {"n_layers": 6, "n_heads": 6, "n_embd": 384},
    "base": {"n_layers": 12, "n_heads": 12, "n_embd": 768},
    "large": {"n_layers": 24, "n_heads": 16, "n_embd": 1024},
}


class L1Config(Words):
    """The published hyperparameters, whose defaults are the published example's, and what the text offers besides."""

    vocab_size: int = 50257
    """Vocabulary size."""
    max_seq_length: int = 1024
    """Maximum sequence length."""
    n_layers: int = 12
    """Transformer layers."""
    n_heads: int = 12
    """Attention heads."""
    n_embd: int = 768
    """Embedding dimension."""
    n_inner: int | None = None
    """Inner dimension of the feed-forward. Default `4 * n_embd`."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout probability of embeddings and of each part's output."""
    attention_dropout: float | None = Field(default=None, ge=0, lt=1)
    """Dropout probability of attention weights. Default `dropout`."""
    pos_type: Literal["learned", "sinusoidal"] = "learned"
    """Positions."""
    tie_weights: bool = True
    """Whether the head shares the token embedding."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Weight of the uniform distribution in the targets of the loss."""
    pad_token_id: int | None = None
    """Token that counts for nothing as a target. Default none."""
    gradient_checkpointing: bool = False
    """Whether training keeps only each layer's input, and computes the rest again in the backward pass."""

    @classmethod
    def size(cls, name: str, **changes: Any) -> Self:
        """Return the settings of `tiny`, `small`, `base` or `large`.

        Raises:
            ConfigError: there is no such size.
        """
        if name not in SIZES:
            raise ConfigError(f"there is no size '{name}'{did_you_mean(name, SIZES)} (known: {', '.join(SIZES)})")
        return cls(**{**SIZES[name], **changes})

    def model(self) -> ModelConfig:
        """Return the settings of the model in the engine's words, as a run takes them at `model`."""
        dropped = self.dropout if self.attention_dropout is None else self.attention_dropout
        attention = {"type": "softmax", "attention_dropout": dropped}
        return self.to_model(attention=attention, feed_forward="mlp", norm="layer_norm", bias=True)
