"""Settings of a model, and what they cost, answered without building it."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from gptwright.config.base import Config
from gptwright.errors import ConfigError
from gptwright.model.count import count
from gptwright.nn.base import LayerContext
from gptwright.nn.slots import (
    FEED_FORWARD,
    NORM,
    POSITION,
    AttentionSlot,
    FeedForwardSlot,
    NormSlot,
    PositionSlot,
)

Strategy = Literal[
    "gpt2",
    "normal",
    "xavier_uniform",
    "xavier_normal",
    "kaiming",
    "kaiming_uniform",
    "kaiming_normal",
    "zero_residual",
    "zeros",
    "ones",
]


class InitConfig(Config):
    """How weights begin."""

    strategy: Strategy = "gpt2"
    """`gpt2`: normal, residual outputs scaled by depth; `zero_residual`: the same with residual outputs at zero;
    `normal`, `xavier_uniform`, `xavier_normal`, `kaiming_uniform`, `kaiming_normal` (also called `kaiming`): for every
    matrix of the blocks and an untied head. Embeddings are normal with all of them."""
    std: PositiveFloat = 0.02
    """Standard deviation of the normal strategies and of embeddings."""
    overrides: dict[str, Strategy] = Field(default_factory=dict)
    """Strategies by pattern of parameter names, the last match wins: `{attention: xavier_normal, "*.bias": zeros}`."""


def _named_strategy(value: Any) -> Any:
    return {"strategy": value} if isinstance(value, str) else value


class BlockConfig(Config):
    """One kind of layer in a hybrid stack."""

    attention: AttentionSlot | None = None
    """Attention of this kind of layer. Default the model's."""
    feed_forward: FeedForwardSlot | None = None
    """Feed-forward of this kind of layer. Default the model's."""
    position: PositionSlot | None = None
    """Positions inside the attention of this kind of layer: `rotary` of another theta (Gemma 3,
    https://arxiv.org/abs/2503.19786), `alibi`, or `none` (Yang et al., 2025, https://arxiv.org/abs/2501.18795). Default
    the model's."""


_UNIFORM = BlockConfig()
"""The kind of all layers where `blocks` names none."""


class ModelConfig(Config):
    """A GPT: its sizes and its parts."""

    vocab_size: PositiveInt | None = None
    """Tokens known. Default: taken from the tokenizer."""
    d_model: PositiveInt
    """Width of the residual stream."""
    n_layers: PositiveInt
    """Number of blocks."""
    max_seq_len: PositiveInt
    """Tokens of context in training; also the number of learned positions."""
    attention: AttentionSlot | None = None
    """How tokens see each other. Required unless every block of `blocks` names its own."""
    feed_forward: FeedForwardSlot = Field(default_factory=FEED_FORWARD.default("mlp"))
    """What each token does by itself."""
    norm: NormSlot = Field(default_factory=NORM.default("layer_norm"))
    """How vectors are normalised."""
    position: PositionSlot = Field(default_factory=POSITION.default("learned"))
    """How tokens know where they stand."""
    wiring: Literal["pre", "post", "sandwich", "parallel", "parallel_norms"] = "pre"
    """Where norms stand around the residual stream: before each part, after each sum (GPT-1), on both sides
    of each part, one before both parts side by side (GPT-J), or one before each of them side by side (GPT-NeoX)."""
    blocks: dict[str, BlockConfig] = Field(default_factory=dict)
    """Kinds of layers of a hybrid stack, by a name of your choice."""
    pattern: list[str] = Field(default_factory=list)
    """Names of `blocks` in the order that repeats to `n_layers`. Default: `blocks` in the order written."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Probability of dropping an element of the embeddings and of each part's output, in training."""
    bias: bool = False
    """Whether projections and layer norms have biases, where a part does not say."""
    tie_embeddings: bool = True
    """Whether the output head shares the token embedding."""
    head_bias: bool = False
    """Whether the output head has a bias, tied or not (GPT-J, Phi)."""
    d_embedding: PositiveInt | None = None
    """Width of the token embedding, projected to `d_model` where it is another (Lan et al., 2020: ALBERT,
    https://arxiv.org/abs/1909.11942). Default `d_model`."""
    embedding_norm: NormSlot | None = None
    """Norm of the embeddings before positions are added (Dettmers et al., 2022, https://arxiv.org/abs/2110.02861).
    Default none."""
    embedding_scale: PositiveFloat | Literal["width"] = 1.0
    """Factor on what enters the residual stream, after the embeddings' projection and norm and before positions are
    added; `width` is sqrt(d_model) (Vaswani et al., 2017, section 3.4; Gemma)."""
    residual_scale: PositiveFloat | Literal["depth"] = 1.0
    """Factor on what each part adds to the residual stream; `depth` is 1 / sqrt(2 * n_layers)."""
    layer_scale: PositiveFloat | None = None
    """Learned factors on what each part adds, one a feature, beginning at this value (Touvron et al., 2021,
    https://arxiv.org/abs/2103.17239). Default none."""
    value_residual: float = Field(default=0.0, ge=0, le=1)
    """Share of the first layer's values in the values of every later layer, 0.5 in the paper (Zhou et al., 2024,
    https://arxiv.org/abs/2410.17897)."""
    logit_softcap: PositiveFloat | None = None
    """Bound c of the final logits, c * tanh(logit / c) (Gemma 2, https://arxiv.org/abs/2408.00118). Default none."""
    init: Annotated[InitConfig, BeforeValidator(_named_strategy)] = Field(default_factory=InitConfig)
    """How weights begin: a strategy's name, or its settings."""

    @model_validator(mode="after")
    def _check_fit(self) -> "ModelConfig":
        problems = [*self._pattern_problems()] or [*self._width_problems(), *self._part_problems()]
        if problems:
            details: list[InitErrorDetails] = [
                {"type": PydanticCustomError("fit", "{m}", {"m": sentence}), "loc": path, "input": None}
                for path, sentence in dict.fromkeys(problems)
            ]
            raise ValidationError.from_exception_data("ModelConfig", details)
        return self

    def _pattern_problems(self) -> Iterator[tuple[tuple[str, ...], str]]:
        known = ", ".join(self.blocks) or "none"
        if self.attention is None and not self.blocks:
            yield (
                ("attention",),
                "a model needs an attention; write for example attention: {type: softmax, n_heads: 4}",
            )
        for name in self.pattern:
            if name not in self.blocks:
                yield (
                    ("pattern",),
                    f"pattern names '{name}', which is not among blocks ({known}); define it there",
                )
        for name, block in self.blocks.items():
            if block.attention is None and self.attention is None:
                yield (
                    ("blocks", name, "attention"),
                    f"block '{name}' has no attention and the model names no default one",
                )

    def _width_problems(self) -> Iterator[tuple[tuple[str, ...], str]]:
        if self.tie_embeddings and self.embedding_width != self.d_model:
            yield (
                ("tie_embeddings",),
                f"tie_embeddings shares a table of d_embedding {self.d_embedding} with a head that reads d_model "
                f"{self.d_model}; make them equal, or set tie_embeddings to false",
            )
        if self.value_residual:
            widths = {layer: self.layer(layer)[0].value_shape(self.context(layer)) for layer in range(self.n_layers)}
            for layer, shape in widths.items():
                if shape and widths[0] and shape != widths[0]:
                    yield (
                        ("value_residual",),
                        f"value_residual mixes values of layer 0, (heads, width) {widths[0]}, into layer {layer}, "
                        f"which has {shape}; give both the same n_kv_heads and head_dim, or set value_residual to 0",
                    )
                    return

    def _part_problems(self) -> Iterator[tuple[tuple[str, ...], str]]:
        for where, part, ctx in self._parts():
            for key, sentence in part.problems(ctx):
                yield (*where, *key.split(".")), sentence
        for name, block in self.blocks.items():
            if block.position is not None and not block.position.fits_one_layer(self._surroundings(block, 0)):
                yield (
                    ("blocks", name, "position"),
                    f"{block.position.type} positions are added to the embeddings, before any layer, so that block "
                    f"'{name}' cannot have them for itself; use rotary, alibi or none there, or set model.position",
                )

    def _parts(self) -> Iterator[tuple[tuple[str, ...], Any, LayerContext]]:
        """Yield where each part is set, its settings, and what it must fit into."""
        ctx = self._surroundings(_UNIFORM, 0)
        yield ("norm",), self.norm, ctx
        if self.embedding_norm is not None:
            yield ("embedding_norm",), self.embedding_norm, ctx
        yield ("position",), self.position, ctx
        if not self.blocks:
            yield ("attention",), self.attention, ctx
            yield ("feed_forward",), self.feed_forward, ctx
        for name, block in self.blocks.items():
            within = self._surroundings(block, 0)
            for slot in ("attention", "feed_forward", "position"):
                own = getattr(block, slot)
                yield (slot,) if own is None else ("blocks", name, slot), own or getattr(self, slot), within

    def pattern_at(self, layer: int) -> str | None:
        """Return the name of the block at ``layer``, or None in a uniform stack."""
        names = self.pattern or list(self.blocks)
        return names[layer % len(names)] if names else None

    def layer(self, index: int) -> tuple[Any, Any]:
        """Return the settings of attention and feed-forward at layer ``index``."""
        block = self._block(index)
        return block.attention or self.attention, block.feed_forward or self.feed_forward

    def context(self, layer: int) -> LayerContext:
        """Return what the parts of layer ``layer`` may know of the model."""
        return self._surroundings(self._block(layer), layer)

    def _block(self, layer: int) -> BlockConfig:
        name = self.pattern_at(layer)
        return _UNIFORM if name is None else self.blocks[name]

    def _surroundings(self, block: BlockConfig, layer: int) -> LayerContext:
        return LayerContext(
            d_model=self.d_model,
            n_layers=self.n_layers,
            max_seq_len=self.max_seq_len,
            position=block.position or self.position,
            norm=self.norm,
            layer_index=layer,
            bias=self.bias,
            dropout=self.dropout,
            value_residual=self.value_residual,
        )

    @property
    def embedding_width(self) -> int:
        """Features of the token embedding."""
        return self.d_embedding or self.d_model

    @property
    def embedding_factor(self) -> float:
        """Factor on what enters the residual stream."""
        return self.d_model**0.5 if self.embedding_scale == "width" else self.embedding_scale

    @property
    def residual_factor(self) -> float:
        """Factor on what each part adds to the residual stream."""
        return (2 * self.n_layers) ** -0.5 if self.residual_scale == "depth" else self.residual_scale

    def require_vocab_size(self) -> int:
        """Return ``vocab_size``, which must have been set by now."""
        if self.vocab_size is None:
            raise ConfigError("model.vocab_size is not set; give it, or a tokenizer that does (data.tokenizer)")
        return self.vocab_size

    def num_params(self, *, non_embedding: bool = False) -> int:
        """Count parameters; ``non_embedding`` leaves out token and position tables, but not an untied head."""
        found = count(self)
        return found.params_non_embedding if non_embedding else found.params

    def active_params(self) -> int:
        """Count the parameters that one token passes through."""
        return count(self).active_params

    def flops_per_token(self, context: int | None = None, *, training: bool = True) -> int:
        """Count FLOPs a token at ``context`` keys (default `max_seq_len`): forward and backward, or forward alone.

        The usual count: 6 for each active weight of each matrix and of the head, and 12 for each layer, head
        feature and key of softmax attention, causal or not (Chowdhery et al., 2022, appendix B).
        """
        found = count(self, context)
        return found.flops_per_token if training else found.flops_per_token // 3

    def state_bytes(self, length: int, element_size: int = 4) -> int:
        """Count the bytes of decode state of one row after ``length`` tokens."""
        return sum(self.layer(i)[0].state_bytes(self.context(i), length, element_size) for i in range(self.n_layers))
