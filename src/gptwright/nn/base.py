"""The contracts: what a component of each kind must offer, and what it may rely on.

Shapes: B batch, T query positions, D d_model.

A component is built as ``Class(config, ctx)`` from its own ``Config`` and the `LayerContext` of the
layer that it serves. Only ``forward`` has to be written: accounting has sound defaults, and an attention
without a state of its own is decoded by replaying its inputs (`gptwright.nn.state.replay`).
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gptwright.config.slot import Component, ComponentConfig
from gptwright.nn.state.base import State
from gptwright.nn.state.replay import Replay
from gptwright.ops.sequence import Sequence


@dataclass(frozen=True)
class LayerContext:
    """What surrounds a component: the facts about the model that it may depend on."""

    d_model: int
    n_layers: int
    max_seq_len: int
    position: "Position.Config"
    norm: "Norm.Config"
    layer_index: int = 0
    bias: bool = False
    dropout: float = 0.0
    value_residual: float = 0.0
    """Share of the first layer's values in those of every later layer."""

    def use_bias(self, own: bool | None) -> bool:
        """Return a component's own choice of bias, or the model's where it makes none."""
        return self.bias if own is None else own


class ModuleConfig(ComponentConfig):
    """Settings of a component that is a torch module, with its accounting."""

    def num_params(self, ctx: LayerContext) -> int:
        """Count parameters, by building the module on torch's ``meta`` device: nothing is allocated."""
        return _count(self, ctx)[0]

    def active_params(self, ctx: LayerContext) -> int:
        """Count the parameters that one token passes through."""
        return self.num_params(ctx)

    def flops_per_token(self, ctx: LayerContext, context: int) -> int:
        """Count forward FLOPs a token at ``context`` keys: two for each weight of each matrix, unless overridden."""
        del context
        return 2 * _count(self, ctx)[1]

    def tp_plan(self, ctx: LayerContext) -> dict[str, str]:
        """Say how tensor parallelism may cut the weights: name or pattern -> ``colwise`` or ``rowwise``.

        A name is a submodule's, or that of a parameter or buffer. ``colwise`` cuts the first dimension (a linear
        layer's outputs, with its bias), ``rowwise`` the second (its inputs; one device keeps the bias). What is not
        named is whole on every device. The outputs of all devices then sum to the whole output.
        """
        del ctx
        return {}

    def problems(self, ctx: LayerContext) -> Iterable[tuple[str, str]]:
        """Yield everything that does not fit, whether or not the class has a ``check`` of its own."""
        yield from self.check(ctx)

    def build(self, ctx: LayerContext) -> Any:
        """Construct the component."""
        return self.owner(self, ctx)  # pyright: ignore[reportCallIssue]


def _count(config: ModuleConfig, ctx: LayerContext) -> tuple[int, int]:
    """Return all parameters, and those that sit in matrices."""
    with torch.device("meta"):
        params = list(config.build(ctx).parameters())
    return sum(p.numel() for p in params), sum(p.numel() for p in params if p.ndim > 1)


@contextmanager
def keeping_dtypes(module: nn.Module, names: Iterable[str]) -> Iterator[None]:
    """Let the buffers of these names move with the module inside the block, but never change their dtype."""
    before = {name: buffer for name in names if (buffer := module._buffers.get(name)) is not None}
    yield
    for name, kept in before.items():
        found = module._buffers[name]
        if found is not None and found.dtype != kept.dtype:
            module._buffers[name] = kept.to(found.device)


class Module(Component, nn.Module):
    """A component that is a torch module."""

    Config: ClassVar[Any] = ModuleConfig

    RESIDUAL_OUTPUTS: ClassVar[tuple[str, ...]] = ()
    """Patterns of the weights whose product is added to the residual stream; initialisation scales them."""
    FILTERS: ClassVar[tuple[str, ...]] = ()
    """Parameters of two dimensions that are no matrices, as those of convolutions: Muon leaves them alone."""
    RECORDABLE: ClassVar[bool] = True
    """Whether decoding one token does the same work whatever the token, so that it can be written down once."""
    KEPT_FP32: ClassVar[tuple[str, ...]] = ()
    """Buffers that stay in fp32 whatever the weights compute in; a working copy shares them with the original."""

    def __init__(self, config: Any = None, ctx: Any = None) -> None:
        nn.Module.__init__(self)
        self.config = config
        self.ctx = ctx

    def after_step(self) -> Mapping[str, float]:
        """Do what is due once after each training step, and return figures to be logged; nothing by default."""
        return {}

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        with keeping_dtypes(self, self.KEPT_FP32):
            return super()._apply(fn, recurse)


class Attention(Module):
    """Mixes tokens: the only part in which a token sees another."""

    RESIDUAL_OUTPUTS = ("o_proj.weight",)
    TAKES_SLOPES: ClassVar[bool] = False
    """Whether ``forward`` subtracts the position's `slopes` times the distance from its scores."""

    class Config(ModuleConfig):
        """Settings of an attention."""

        def problems(self, ctx: LayerContext) -> Iterable[tuple[str, str]]:
            """Yield what does not fit: positions or values that would be ignored, and what the class itself checks."""
            owner: Any = self.owner
            if ctx.position.slopes(1) is not None and not owner.TAKES_SLOPES:
                yield (
                    "type",
                    f"{ctx.position.type} positions are subtracted from attention scores, and {self.type} attention "
                    "takes none; use rotary positions with it, or softmax attention with these positions",
                )
            if ctx.value_residual and self.value_shape(ctx) is None:
                yield (
                    "type",
                    f"value_residual mixes the first layer's values into every layer, and {self.type} attention has no "
                    "such values; set model.value_residual to 0, or use softmax attention",
                )
            yield from self.check(ctx)

        def value_shape(self, ctx: LayerContext) -> tuple[int, int] | None:
            """Return the heads and width of the values that `value_residual` mixes, or None where it cannot."""
            del ctx
            return None

        def state_bytes(self, ctx: LayerContext, length: int, element_size: int = 4) -> int:
            """Count the bytes of decode state that one row holds after ``length`` tokens."""
            return length * ctx.d_model * element_size

    def init_state(
        self,
        batch: int,
        length: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> State:
        """Return a state that has seen nothing, for ``batch`` rows of up to ``length`` tokens."""
        return Replay(batch, length, device=device, dtype=dtype)

    def forward(self, x: Tensor, seq: Sequence, state: Any = None) -> Tensor:
        """Mix ``x`` (B, T, D) by the law of ``seq``; with a state, after the tokens that it has seen."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(x, seq, state=None)")


class FeedForward(Module):
    """Works on each token by itself."""

    RESIDUAL_OUTPUTS = ("down_proj.weight",)

    class Config(ModuleConfig):
        """Settings of a feed-forward."""

    def forward(self, x: Tensor, seq: Sequence) -> Tensor:
        """Map ``x`` (B, T, D) to (B, T, D), token by token."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(x, seq)")


class Norm(Module):
    """Normalises the last dimension; ``width`` is d_model unless a component asks for another."""

    class Config(ModuleConfig):
        """Settings of a norm."""

        def build(self, ctx: LayerContext, width: int | None = None) -> Any:
            """Construct the norm for vectors of ``width`` (default d_model) features."""
            return self.owner(self, ctx, width)  # pyright: ignore[reportCallIssue]

        def flops_per_token(self, ctx: LayerContext, context: int) -> int:
            """Count nothing: only matrix products are counted."""
            del ctx, context
            return 0

    def __init__(self, config: Any = None, ctx: LayerContext | None = None, width: int | None = None) -> None:
        super().__init__(config, ctx)
        self.width: int = width or (ctx.d_model if ctx else 0)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` (..., D) normalised, in its own dtype."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(x)")


class Position(Module):
    """Tells tokens where they stand: by adding to embeddings, or by turning queries and keys."""

    class Config(ModuleConfig):
        """Settings of a position scheme."""

        def limit(self, ctx: LayerContext) -> int | None:
            """Return the number of positions that exist, or None where any position can be computed."""
            del ctx
            return None

        def flops_per_token(self, ctx: LayerContext, context: int) -> int:
            """Count nothing: only matrix products are counted."""
            del ctx, context
            return 0

        def fits_one_layer(self, ctx: LayerContext) -> bool:
            """Whether a kind of layer may have these positions for itself: nothing is added to embeddings, none end."""
            return self.owner.forward is Position.forward and self.limit(ctx) is None  # pyright: ignore[reportAttributeAccessIssue]

        def turn(self, q: Tensor, k: Tensor, seq: Sequence) -> tuple[Tensor, Tensor]:
            """Return queries (B, H, T, d) and keys (B, K, T, d) with their positions worked in."""
            del seq
            return q, k

        def slopes(self, n_heads: int) -> list[float] | None:
            """Return for each head what a position of distance costs in its scores; None where distance is free."""
            del n_heads
            return None

        def problems_with_heads(self, head_dim: int) -> Iterable[str]:
            """Yield why heads of this width cannot be used."""
            del head_dim
            return ()

    def forward(self, x: Tensor, seq: Sequence) -> Tensor:
        """Add positions to embeddings ``x`` (B, T, D)."""
        del seq
        return x
