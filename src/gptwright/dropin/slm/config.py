"""Settings of the small language model."""

from gptwright.dropin.translate import Words
from gptwright.model.config import ModelConfig


class GPTConfig(Words):
    """The published hyperparameters, and optional ones with their defaults."""

    vocab_size: int
    """Number of unique tokens in the tokenizer's vocabulary."""
    block_size: int
    """Maximum sequence length that the model can process."""
    n_layer: int
    """Transformer blocks."""
    n_head: int
    """Attention heads."""
    n_embd: int
    """Embedding dimension."""
    dropout: float = 0.0
    """Dropout rate of embeddings and of each part's output."""

    def model(self) -> ModelConfig:
        """Return the same in the engine's words, with what this design fixes: ReLU, norms before each part."""
        return self.to_model(
            attention={"type": "softmax"},
            feed_forward={"type": "mlp", "activation": "relu"},
            norm="layer_norm",
            position="learned",
            bias=True,
            tie_embeddings=False,
        )
