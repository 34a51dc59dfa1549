"""What a model costs, from its settings alone."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gptwright.model.block import norms_per_block

if TYPE_CHECKING:
    from gptwright.model.config import ModelConfig

_SLOTS = ("attention", "feed_forward")


@dataclass(frozen=True)
class Part:
    """One row of the table: a part, how often it stands in the model, and what all of them cost."""

    name: str
    kind: str
    copies: int
    params: int
    active_params: int
    flops_per_token: int
    """Forward FLOPs a token."""
    layers: tuple[int, ...] = (-1,)
    """The layers in which it stands, -1 outside of layers."""
    state_bytes: int = 0
    """Decode state of one row at the context, in fp32."""
    activation_bytes: int | None = None
    """What the backward pass of a batch needs kept; None where nobody asked, or it cannot be known."""


@dataclass(frozen=True)
class Count:
    """What a whole model costs."""

    context: int
    params: int
    params_non_embedding: int
    """Without token and position tables; an untied head counts."""
    active_params: int
    """Parameters that one token passes through."""
    flops_per_token: int
    """FLOPs a token in training: three times the forward ones."""
    state_bytes: int
    """Decode state of one row at `context` tokens, in fp32."""
    parts: list[Part] = field(default_factory=list)


def count(config: "ModelConfig", context: int | None = None) -> Count:
    """Count parameters, FLOPs and state of ``config`` at ``context`` keys (default ``max_seq_len``)."""
    context = context or config.max_seq_len
    ctx, vocab = config.context(0), config.require_vocab_size()
    embedding, product = vocab * config.embedding_width, vocab * config.d_model
    head = (0 if config.tie_embeddings else product) + (vocab if config.head_bias else 0)
    position = config.position.num_params(ctx)
    parts = [
        Part("token_embedding", "embedding", 1, embedding, embedding, 0),
        *_entry_parts(config),
        Part("position", config.position.type, 1, position, position, 0),
        *_layer_parts(config, context),
        _norm_part(config),
        *_scale_parts(config),
        Part("lm_head", "tied" if config.tie_embeddings else "linear", 1, head, head, 2 * product),
    ]
    params = sum(part.params for part in parts)
    return Count(
        context=context,
        params=params,
        params_non_embedding=params - embedding - position,
        active_params=sum(part.active_params for part in parts),
        flops_per_token=3 * sum(part.flops_per_token for part in parts),
        state_bytes=config.state_bytes(context),
        parts=parts,
    )


def _entry_parts(config: "ModelConfig") -> list[Part]:
    """Count what stands between the token embedding and the residual stream, where there is something."""
    parts = []
    if config.embedding_width != config.d_model:
        size = config.embedding_width * config.d_model
        parts.append(Part("embedding_proj", "linear", 1, size, size, 2 * size))
    if config.embedding_norm is not None:
        size = config.embedding_norm.num_params(config.context(0))
        parts.append(Part("embedding_norm", config.embedding_norm.type, 1, size, size, 0))
    return parts


def _scale_parts(config: "ModelConfig") -> list[Part]:
    """Count the learned factors on what parts add."""
    if config.layer_scale is None:
        return []
    size = 2 * config.n_layers * config.d_model
    return [Part("layer_scale", "vector", 2 * config.n_layers, size, size, 0)]


def _layer_parts(config: "ModelConfig", context: int) -> list[Part]:
    """Count each kind of attention and feed-forward once, times the layers that use it."""
    rows: dict[tuple[str, str], list[int]] = {}
    for index in range(config.n_layers):
        for slot, part in zip(_SLOTS, config.layer(index), strict=True):
            rows.setdefault((slot, repr(part)), []).append(index)
    return [_part(config, slot, layers, context) for (slot, _), layers in rows.items()]


def _part(config: "ModelConfig", slot: str, layers: list[int], context: int) -> Part:
    part: Any = config.layer(layers[0])[_SLOTS.index(slot)]
    copies, ctx = len(layers), config.context(layers[0])
    return Part(
        slot,
        part.type,
        copies,
        copies * part.num_params(ctx),
        copies * part.active_params(ctx),
        copies * part.flops_per_token(ctx, context),
        layers=tuple(layers),
        state_bytes=sum(part.state_bytes(config.context(i), context) for i in layers) if slot == "attention" else 0,
    )


def _norm_part(config: "ModelConfig") -> Part:
    final = 0 if config.wiring == "post" else 1
    copies = norms_per_block(config.wiring) * config.n_layers + final
    params = copies * config.norm.num_params(config.context(0))
    return Part("norm", config.norm.type, copies, params, params, 0, layers=(*range(config.n_layers), *(-1,) * final))
