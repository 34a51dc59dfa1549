"""GPT-1: norms after each sum, GELU, learned positions (Radford et al., 2018).

Shapes: B batch, T tokens.
"""

from typing import Any

from torch import Tensor
from torch.nn import Dropout, Module, ModuleList

from gptwright.dropin.face import Face
from gptwright.dropin.gpt1.layers import (
    FeedForwardLayer,
    Ignore,
    MultiHeadAttentionLayer,
    real_tokens,
    settings,
)
from gptwright.dropin.translate import device_named
from gptwright.errors import ConfigError
from gptwright.model import gpt as engine
from gptwright.model.init import initialise
from gptwright.nn.state.base import State
from gptwright.ops.sequence import Sequence


class TransformerBlock(Module):
    """Attention and feed-forward, each followed by dropout, the sum with its input, and a norm."""

    def __init__(self, n_heads: int, dim: int, hidden: int, dropout: float, device: str = "cpu") -> None:
        super().__init__()
        config = settings(n_heads=n_heads, dim=dim, hidden=hidden, dropout=dropout)
        self.norm1, self.norm2 = (config.norm.build(config.context(0)) for _ in range(2))
        self.att = MultiHeadAttentionLayer(n_heads, dim, device)
        self.ffl = FeedForwardLayer(dim, hidden, device)
        self.drop1, self.drop2 = Dropout(dropout), Dropout(dropout)
        self.to(device_named(device))

    @property
    def attention(self) -> Any:
        """What the engine asks for decode states."""
        return self.att

    def __call__(self, x: Tensor, ignore: Ignore = None, state: State | None = None) -> Tensor:
        """Let the engine's description and state travel where people say `ignore`, whatever ``forward`` does."""
        return super().__call__(x, (ignore, state) if isinstance(ignore, Sequence) else ignore)

    def forward(self, x: Tensor, ignore: Ignore) -> Tensor:
        """Map ``x`` (B, T, dim) to (B, T, dim)."""
        x = self.norm1(x + self.drop1(self.att(x, ignore)))
        return self.norm2(x + self.drop2(self.ffl(x)))


class PreNormBlock(TransformerBlock):
    """Norms before attention and feed-forward, on the branch: the residual stream itself is never normalised."""

    def forward(self, x: Tensor, ignore: Ignore) -> Tensor:
        """Map ``x`` (B, T, dim) to (B, T, dim)."""
        x = x + self.drop1(self.att(self.norm1(x), ignore))
        return x + self.drop2(self.ffl(self.norm2(x)))


class GPT(Face):
    """The whole model; `wiring` is post or pre, `init` what `model.init` takes, `block` a class of your own."""

    def __init__(
        self,
        vocab: int,
        seq: int,
        n_layers: int,
        n_heads: int,
        dim: int,
        hidden: int,
        dropout: float,
        device: str = "cpu",
        *,
        wiring: str = "post",
        init: Any = "normal",
        block: Any = None,
    ) -> None:
        blocks = {"post": TransformerBlock, "pre": PreNormBlock}
        if wiring not in blocks:
            raise ConfigError(f"wiring '{wiring}' has no block here; use post or pre, or gptwright.GPT for the others")
        sizes = {"n_heads": n_heads, "dim": dim, "hidden": hidden, "dropout": dropout}
        words = {"vocab": vocab, "seq": seq, "n_layers": n_layers, **sizes}
        super().__init__(settings(wiring, **words))
        self.config = settings(wiring, init, **words)  # `init` may name the layers that are made only now
        self.layers = ModuleList((block or blocks[wiring])(*sizes.values(), device) for _ in range(n_layers))
        self.init_weights()
        self.to(device_named(device))

    def init_weights(self) -> None:
        """Set every weight as `init` says; define it anew, or call it again, for strategies of your own."""
        initialise(self, self.config)

    def forward(self, x: Tensor, ignore: Tensor | None = None, **described: Any) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the logits (B, T, vocab) for ids ``x`` (B, T); ``ignore`` (B, T) is True at padding."""
        mask = None if ignore is None else real_tokens(x, ignore)
        return engine.GPT.forward(self, x, padding_mask=mask, **described)
