"""The layers of GPT-1, each usable by itself: the engine's parts under this design's names.

Shapes: B batch, T tokens.
"""

from typing import Any

from torch import Tensor
from torch.nn import Identity

from gptwright.dropin.translate import device_named, to_model
from gptwright.errors import GptwrightError
from gptwright.model.config import ModelConfig
from gptwright.nn.attention.softmax import Softmax
from gptwright.nn.feed_forward.mlp import MLP
from gptwright.nn.state.base import State
from gptwright.ops.sequence import Sequence

Ignore = Tensor | Sequence | tuple[Sequence, State] | None
"""(B, T) bool, or what the engine says in its place: a whole description of the batch, with a state when it decodes."""


def settings(wiring: str = "post", init: Any = "normal", **words: Any) -> ModelConfig:
    """Return the engine's settings of a GPT-1, from this design's words."""
    return to_model(
        {"vocab": 1, "seq": 1, "n_layers": 1, "n_heads": 1, **words},
        attention={"type": "softmax"},
        feed_forward={"type": "mlp", "activation": "gelu_tanh"},
        norm="layer_norm",
        position="learned",
        bias=True,
        tie_embeddings=True,
        wiring=wiring,
        init=init,
    )


def described(x: Tensor, ignore: Ignore) -> tuple[Sequence, State | None]:
    """Return what the engine wants to know of ``x`` (B, T, D): the sequence, and the decode state if there is one."""
    if isinstance(ignore, tuple):
        return ignore
    if isinstance(ignore, Sequence):
        return ignore, None
    if ignore is None:
        return Sequence.plain(*x.shape[:2], device=x.device), None
    return Sequence.padded(real_tokens(x, ignore)), None


def real_tokens(x: Tensor, ignore: Tensor) -> Tensor:
    """Return (B, T) bool, True where ``ignore`` is not.

    Raises:
        GptwrightError: it is not of the shape of ``x``.
    """
    if ignore.shape != x.shape[:2]:
        raise GptwrightError(
            f"ignore has shape {tuple(ignore.shape)} and x {tuple(x.shape)}; ignore must be (batch, length), "
            "True where a token is padding"
        )
    return ~ignore.bool()


class _CausalAttention(Softmax):
    """The engine's softmax attention, told by `ignore` what is padding."""

    def __init__(self, device: str, **words: Any) -> None:
        config = settings(**words)
        super().__init__(config.attention, config.context(0))
        self.to(device_named(device))

    def forward(self, x: Tensor, ignore: Ignore = None) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Mix the tokens of ``x`` (B, T, D), none of which sees a later or an ignored one."""
        return super().forward(x, *described(x, ignore))  # pyright: ignore[reportArgumentType]


class MultiHeadAttentionLayer(_CausalAttention):
    """Heads of causal attention side by side, joined by a projection: (B, T, dim) to (B, T, dim)."""

    def __init__(self, n_heads: int, dim: int, device: str = "cpu") -> None:
        super().__init__(device, n_heads=n_heads, dim=dim)


class SelfAttentionLayer(_CausalAttention):
    """One head of causal attention, (B, T, d_in) to (B, T, d_out)."""

    def __init__(self, d_in: int, d_out: int, device: str = "cpu") -> None:
        super().__init__(device, d_in=d_in, d_out=d_out)
        self.o_proj = Identity()  # the projection that joins heads belongs to the layer of many


class FeedForwardLayer(MLP):
    """Two layers with GELU between them, token by token: (B, T, d_in) to (B, T, d_in)."""

    def __init__(self, d_in: int, d_h: int, device: str = "cpu") -> None:
        config = settings(d_in=d_in, d_h=d_h)
        super().__init__(config.feed_forward, config.context(0))
        self.to(device_named(device))

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Widen, bend, narrow."""
        return super().forward(x, None)  # pyright: ignore[reportArgumentType]
