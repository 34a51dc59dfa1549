"""Our tensors by llama.cpp's names and in its layouts, made one at a time.

Shapes: D d_model, H heads, K key-value heads, d width of a head, r turned width, E experts, F inner width.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gptwright.interop.gguf.features import rotary_of, usual_scale
from gptwright.interop.gguf.settings import own_frequencies
from gptwright.interop.gguf.shapes import Match
from gptwright.interop.rules import neighbours
from gptwright.model.config import ModelConfig
from gptwright.ops.rotary import rotary_frequencies


class Named(NamedTuple):
    """A tensor to be written."""

    name: str
    shape: tuple[int, ...]
    array: Callable[[], np.ndarray]
    """Makes it, fp32."""


class Counted(Mapping[str, Tensor]):
    """Tensors that remember which of them were asked for."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors
        self._seen: set[str] = set()

    def __getitem__(self, name: str) -> Tensor:
        self._seen.add(name)
        return self._tensors[name]

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    @property
    def unseen(self) -> list[str]:
        """Those that were not."""
        return [name for name in self._tensors if name not in self._seen]


def named_arrays(tensors: Mapping[str, Tensor], found: Match, config: ModelConfig) -> Iterator[Named]:
    """Yield the tensors of a model as the architecture that was found wants them."""
    yield from _Namer(tensors, found, config).every()


class _Namer:
    def __init__(self, tensors: Mapping[str, Tensor], found: Match, config: ModelConfig) -> None:
        self.tensors, self.config = tensors, config
        self.architecture, self.features = found.architecture, found.features
        self.attention, self.feed_forward = config.layer(0)
        self.width = self.attention.width(config.context(0))

    def every(self) -> Iterator[Named]:
        config, architecture = self.config, self.architecture
        yield self._named("token_embd.weight", "token_embedding.weight")
        if config.position.type == "learned":
            yield self._named("position_embd.weight", "position.weight")
        yield from self._norm("output_norm", "final_norm", config.d_model)
        head = "token_embedding.weight" if config.tie_embeddings else "lm_head.weight"
        if not config.tie_embeddings or architecture.own_head:
            yield self._named("output.weight", head)
        if self._has("lm_head.bias") or "head_bias" in architecture.zeros:
            yield self._vector("output.bias", "lm_head.bias", config.require_vocab_size())
        position = rotary_of(config)
        if position is not None and own_frequencies(position):
            yield self._factors(position)
        for layer in range(config.n_layers):
            yield from self._layer(f"layers.{layer}.", f"blk.{layer}.")

    def _layer(self, ours: str, theirs: str) -> Iterator[Named]:
        width = self.config.d_model
        norms = {"attention_norm": "attn_norm", "feed_forward_norm": "ffn_norm"}
        if self.config.wiring == "sandwich":
            norms |= {"attention_post_norm": "post_attention_norm", "feed_forward_post_norm": "post_ffw_norm"}
        if self.config.wiring == "parallel":
            norms.pop("feed_forward_norm")
        for mine, other in norms.items():
            yield from self._norm(theirs + other, ours + mine, width)
        yield from self._attention(f"{ours}attention.", theirs)
        if self.feed_forward.type == "moe":
            yield from self._experts(f"{ours}feed_forward.", theirs)
        else:
            yield from self._thinking(f"{ours}feed_forward.", theirs)

    def _attention(self, ours: str, theirs: str) -> Iterator[Named]:
        parts, inner = ("q", "k", "v"), self.attention.n_heads * self.width
        rows = (inner, *[self.attention.kv_heads() * self.width] * 2)
        for kind in self._kinds("qkv_bias", f"{ours}q_proj.bias"):
            made = [
                self._rows(f"{ours}{part}_proj{kind}", count, part) for part, count in zip(parts, rows, strict=True)
            ]
            tail = (self.config.d_model,) if kind == ".weight" else ()
            if self.architecture.fused_qkv:
                yield Named(
                    f"{theirs}attn_qkv{kind}", (sum(rows), *tail), lambda m=made: np.concatenate([f() for f in m])
                )
            else:
                for part, count, make in zip(parts, rows, made, strict=True):
                    yield Named(f"{theirs}attn_{part}{kind}", (count, *tail), make)
        yield from self._linear(f"{theirs}attn_output", f"{ours}o_proj", "out_bias", self.config.d_model)
        if self.attention.qk_norm is not None:
            for part in ("q", "k"):
                norm, factor = self.attention.qk_norm, self._own_factor() if part == "q" else 1.0
                yield from self._norm(f"{theirs}attn_{part}_norm", f"{ours}{part}_norm", self.width, norm, factor)

    def _own_factor(self) -> float:
        """Return what queries are multiplied by for scores of another factor than llama.cpp's."""
        scale = self.attention.scale
        return 1.0 if scale is None else scale / usual_scale(self.config)

    def _rows(self, name: str, count: int, part: str) -> Callable[[], np.ndarray]:
        """Return what makes rows of queries, keys or values, laid out as positions turn them."""
        heads = self.attention.n_heads if part == "q" else self.attention.kv_heads()
        turned = self.architecture.neighbours and part in "qk"

        def make() -> np.ndarray:
            tensor = self.tensors[name].float() if self._has(name) else torch.zeros(count)
            return (neighbours(heads).together([tensor]) if turned else tensor).numpy()

        return make

    def _thinking(self, ours: str, theirs: str) -> Iterator[Named]:
        bias, inner = "feed-forward bias", self.feed_forward.width(self.config.context(0))
        if self.architecture.fused_gate:
            both = [f"{ours}gate_proj.weight", f"{ours}up_proj.weight"]
            shape = (2 * inner, self.config.d_model)
            yield Named(f"{theirs}ffn_up.weight", shape, lambda: np.concatenate([self._array(name) for name in both]))
        else:
            if self.feed_forward.type == "glu":
                yield from self._linear(f"{theirs}ffn_gate", f"{ours}gate_proj", bias, inner)
            yield from self._linear(f"{theirs}ffn_up", f"{ours}up_proj", bias, inner)
        yield from self._linear(f"{theirs}ffn_down", f"{ours}down_proj", bias, self.config.d_model)

    def _experts(self, ours: str, theirs: str) -> Iterator[Named]:
        count = self.feed_forward.n_experts
        yield self._named(f"{theirs}ffn_gate_inp.weight", f"{ours}router.weight")
        for part in ("gate", "up", "down"):
            names = [f"{ours}experts.{n}.{part}_proj.weight" for n in range(count)]
            shape = (count, *self.tensors[names[0]].shape)  # (E, F, D) or (E, D, F)
            yield Named(f"{theirs}ffn_{part}_exps.weight", shape, lambda n=names: np.stack([self._array(x) for x in n]))

    def _linear(self, theirs: str, ours: str, feature: str, count: int) -> Iterator[Named]:
        yield self._named(f"{theirs}.weight", f"{ours}.weight")
        if ".bias" in self._kinds(feature, f"{ours}.bias"):
            yield self._vector(f"{theirs}.bias", f"{ours}.bias", count)

    def _norm(self, theirs: str, ours: str, width: int, norm: Any = None, factor: float = 1.0) -> Iterator[Named]:
        """Yield a norm; a scale that is not there is 1, and one with an offset has it added."""
        offset = float(getattr(norm or self.config.norm, "unit_offset", False))
        name = f"{ours}.weight"

        def scale() -> np.ndarray:
            found = self._array(name) + np.float32(offset) if self._has(name) else np.ones(width, np.float32)
            return found if factor == 1 else found * np.float32(factor)

        yield Named(f"{theirs}.weight", (width,), scale)
        if self._has(f"{ours}.bias") or "norm bias" in self.architecture.zeros:
            yield self._vector(f"{theirs}.bias", f"{ours}.bias", width)

    def _factors(self, position: Any) -> Named:
        """Return by what each frequency (r/2,) is divided."""
        turned = position.rotated(self.width)
        plain = rotary_frequencies(turned, position.theta)
        slow = position.scaling.frequencies(turned, position.theta, plain.device)
        return Named("rope_freqs.weight", (turned // 2,), lambda: (plain / slow).numpy())

    def _kinds(self, feature: str, bias: str) -> tuple[str, ...]:
        return (".weight", ".bias") if self._has(bias) or feature in self.architecture.zeros else (".weight",)

    def _has(self, name: str) -> bool:
        return name in self.tensors

    def _named(self, theirs: str, ours: str) -> Named:
        return Named(theirs, tuple(self.tensors[ours].shape), lambda: self._array(ours))

    def _vector(self, theirs: str, ours: str, count: int) -> Named:
        return Named(theirs, (count,), lambda: self._array(ours) if self._has(ours) else np.zeros(count, np.float32))

    def _array(self, name: str) -> np.ndarray:
        return self.tensors[name].detach().float().cpu().numpy()
