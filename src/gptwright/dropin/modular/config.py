"""Settings of the modular design: each part is named by a file and the class in it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

from pydantic import Field
from pydantic_core import PydanticCustomError

from gptwright.config.load import load
from gptwright.config.report import did_you_mean
from gptwright.config.slot import Component
from gptwright.dropin.translate import Words
from gptwright.errors import ConfigError
from gptwright.interop.names import COMPONENTS, component, menu
from gptwright.nn.slots import ATTENTION, FEED_FORWARD, NORM

_SLOTS = {"attention": ATTENTION, "ffn": FEED_FORWARD, "norm": NORM}
_DEFAULTS = {"window": 128, "n_experts": 8}
"""Settings that some parts cannot do without and the published YAML does not give."""


class GPTConfig(Words):
    """The published keys, and optional ones with their defaults."""

    n_embd: int
    """Embedding dimension."""
    num_heads: int
    """Attention heads."""
    n_layers: int
    """Transformer blocks."""
    vocab_size: int
    """Vocabulary size."""
    block_size: int
    """Maximum sequence length."""
    dropout: float = 0.0
    """Dropout rate, after embeddings, attention and feed-forward."""
    attention_type: str = "flash_attention"
    """flash_attention, linear_attention, local_window_attention, or a module of your own."""
    attention_class: str | None = None
    """The class in it."""
    ffn_type: str = "ff_standard"
    """ff_standard, ff_swiglu, ff_moe, or a module of your own."""
    ffn_class: str | None = None
    """The class in it."""
    norm_type: str = "layernorm"
    """layernorm, rmsnorm, scalenorm, or a module of your own."""
    norm_class: str | None = None
    """The class in it."""
    pos_type: Literal["learned", "sinusoidal"] = "learned"
    """Positions."""
    tie_weights: bool = False
    """Whether the output projection shares the embedding."""
    bias: bool = False
    """Whether projections and layer norms have biases."""
    window_size: int | None = None
    """Tokens that local attention sees, the own one included. Default 128."""
    num_experts: int | None = None
    """Experts of ff_moe. Default 8."""
    num_experts_per_tok: int | None = None
    """Experts that a token visits. Default 2."""
    attention_args: dict[str, Any] = Field(default_factory=dict)
    """Further settings of the attention, in its own words."""
    ffn_args: dict[str, Any] = Field(default_factory=dict)
    """Further settings of the feed-forward."""
    norm_args: dict[str, Any] = Field(default_factory=dict)
    """Further settings of the norm."""

    def part(self, kind: str) -> type[Component]:
        """Return the component of ours, or the class of one's own, that stands for a part.

        Raises:
            ConfigError: it is not known, does not import, or is not a component.
        """
        file = getattr(self, f"{kind}_type")
        try:
            return _SLOTS[kind].resolve(component(kind, file, getattr(self, f"{kind}_class")))
        except PydanticCustomError as error:
            hint = did_you_mean(file, COMPONENTS[kind])
            raise ConfigError(f"{kind}_type '{file}' cannot be used: {error.message()}{hint} ({menu(kind)})") from None

    def settings(self, kind: str) -> dict[str, Any]:
        """Return the settings of a part that no published key gives: its name, defaults and further ones."""
        part = self.part(kind)
        defaults = {key: value for key, value in _DEFAULTS.items() if key in part.Config.model_fields}
        return {"type": part.type_name(), **defaults, **getattr(self, f"{kind}_args")}

    def words(self) -> dict[str, Any]:
        """Return the words that mean a setting of ours; an attention of one's own need not have heads."""
        heads = "n_heads" in self.part("attention").Config.model_fields
        return {word: value for word, value in super().words().items() if heads or word != "num_heads"}


def load_config(path: str | Path) -> SimpleNamespace:
    """Return the settings in a YAML file as a namespace for `GPTModel`.

    Raises:
        ConfigError: it cannot be read, or a key is missing or wrong; with the line.
    """
    return SimpleNamespace(**load(GPTConfig, path).data)
