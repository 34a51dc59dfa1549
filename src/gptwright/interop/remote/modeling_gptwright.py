# ruff: noqa: D102, RUF012 - forward and begin say what their class says, and transformers wants plain tables
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportIncompatibleMethodOverride=false, reportReturnType=false
"""A GPT of interchangeable parts in one file, for which torch and transformers are enough.

The settings (`config.gptwright`) name an attention, a feed-forward, a norm and a position scheme, and how they are
wired to the residual stream; hybrid stacks repeat a pattern of blocks. Every part is written here as its paper has it.
The project that trains these models, gptwright, computes the same faster.

One law holds for every part: *a token sees only its own document, and only earlier or equal positions in it*. Padding
is document 0; positions count real tokens. So padding on either side, packed documents and any number of tokens at a
time on top of a cache all give the same logits.

Shapes: B batch, T new tokens, S tokens so far, D d_model, H query heads, K key-value heads, d head width, e value
width, C tokens of a chunk, V vocabulary, E experts, k experts a token, N tokens of a batch.
"""

import math
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast

from .configuration_gptwright import GPTWrightConfig

CHUNK = 64
"""Tokens that linear and delta attention work on at once."""


class Settings(SimpleNamespace):
    """Settings by attribute; what they do not say is None."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return None

    @classmethod
    def of(cls, value: Any) -> Any:
        """Return ``value`` with every mapping in it as settings."""
        if isinstance(value, dict):
            return cls(**{name: cls.of(inner) for name, inner in value.items()})
        return value


def fill(parameter: Tensor | None, value: Tensor | float) -> None:
    """Give a parameter its first value, unless there is none, or it has been loaded."""
    if parameter is not None and not getattr(parameter, "_is_hf_initialized", False):
        with torch.no_grad():
            parameter.copy_(torch.as_tensor(value))


# --- what a batch is, and what is remembered of it --------------------------------------------------


class Memory:
    """What one layer remembers: tensors with the batch first and, if they have ``columns``, tokens third."""

    is_compileable = False
    is_sliding = False

    def __init__(self) -> None:
        self.tensors: tuple[Tensor, ...] = ()
        self.columns = False

    def append(self, *new: Tensor) -> tuple[Tensor, ...]:
        """Put new columns behind those there are, and return all."""
        self.columns = True
        joined = (torch.cat(pair, 2) for pair in zip(self.tensors, new, strict=True)) if self.tensors else new
        self.tensors = tuple(joined)
        return self.tensors

    def replace(self, *new: Tensor) -> None:
        """Remember ``new``, and nothing else."""
        self.tensors = new

    def select(self, rows: Tensor) -> None:
        """Keep these rows, in this order."""
        self.tensors = tuple(x.index_select(0, rows.to(x.device)) for x in self.tensors)

    def crop(self, count: int) -> None:
        """Forget the last ``count`` columns."""
        if count and self.tensors and not self.columns:
            raise ValueError(
                f"{count} tokens cannot be taken back from a recurrent memory, which is a sum over all of them; "
                "decode without an assistant, or keep a copy of the cache"
            )
        if count and self.tensors:
            self.tensors = tuple(x[:, :, : x.shape[2] - count] for x in self.tensors)

    def get_seq_length(self) -> int:
        """Return the number of columns."""
        return self.tensors[0].shape[2] if self.columns else 0

    def get_max_length(self) -> int:
        """Return -1: there is no limit."""
        return -1

    def reset(self) -> None:
        """Forget everything."""
        self.tensors = ()


class GPTWrightCache(Cache):
    """What all layers remember, and where every token so far stands; the same object may be fed any number of times."""

    def __init__(self, n_layers: int) -> None:
        self.where = Memory()  # positions and documents, (B, 1, S) each
        super().__init__(layers=[Memory() for _ in range(n_layers)])

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return S, padding included."""
        return self.where.get_seq_length()

    def last(self) -> tuple[Tensor, Tensor]:
        """Return the position and document (B, 1) of each row's last real token; -1 and 0 where there is none."""
        positions, documents = (x[:, 0] for x in self.where.tensors)
        index = torch.arange(positions.shape[1], device=positions.device)
        at = torch.where(documents > 0, index, 0).amax(1, keepdim=True)
        document = documents.gather(1, at)
        return torch.where(document > 0, positions.gather(1, at), -1), document

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows."""
        for memory in (self.where, *self.layers):
            memory.select(indices)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Give each beam the memory of the one that it continues."""
        self.batch_select_indices(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Give each row ``repeats`` copies."""
        if self.where.tensors:
            rows = torch.arange(len(self.where.tensors[0])).repeat_interleave(repeats)
            self.batch_select_indices(rows)

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last tokens; a positive number is the length to keep, as transformers had it before."""
        count = -tokens_to_remove if tokens_to_remove <= 0 else max(0, self.get_seq_length() - tokens_to_remove)
        for memory in (*self.layers, self.where):  # a layer that cannot refuses before anything has changed
            memory.crop(count)

    def activate_past_recording(self) -> None:
        """Do nothing: columns can be taken back, and sums cannot."""

    def reset(self) -> None:
        """Forget everything."""
        for memory in (self.where, *self.layers):
            memory.reset()

    @property
    def is_compileable(self) -> bool:
        """Say no: columns grow."""
        return False

    @property
    def is_croppable(self) -> bool:
        """Whether tokens can be taken back."""
        return all(memory.columns for memory in self.layers)


class Batch:
    """Where the new tokens stand, and what they see; `losses` collects what parts ask to be added to the loss."""

    def __init__(self, real: Tensor, positions: Tensor | None, cache: GPTWrightCache | None) -> None:
        before = cache.last() if cache is not None and cache.where.tensors else None
        position, document = (-1, 0) if before is None else before
        if positions is None:
            positions = real.long().cumsum(1) + position
        self.real = real  # (B, T)
        self.positions = torch.where(real, positions, 0)  # (B, T)
        self.begins = real & (self.positions == 0)  # (B, T)
        started = self.begins.long().cumsum(1) + document
        self.documents = started.clamp(min=1) * real  # (B, T), 0 at padding
        columns = self.positions[:, None], self.documents[:, None]
        self.keys = columns if cache is None else cache.where.append(*columns)  # (B, 1, S) each
        self.is_plain = before is None and bool(real.all()) and not bool(self.begins[:, 1:].any())
        self.first_values: Tensor | None = None
        self.losses: list[Tensor] = []
        self._seen: dict[int | None, Tensor] = {}

    def distance(self) -> Tensor:
        """(B, 1, T, S): how far each key lies behind each new token."""
        return self.positions[:, None, :, None] - self.keys[0][:, :, None]

    def seen(self, window: int | None = None) -> Tensor:
        """(B, 1, T, S) bool: which keys each new token sees; padding sees padding, so that nothing is 0 / 0."""
        if window not in self._seen:
            distance = self.distance()
            seen = (self.documents[:, None, :, None] == self.keys[1][:, :, None]) & (distance >= 0)
            self._seen[window] = seen if window is None else seen & (distance < window)
        return self._seen[window]


# --- norms and activations --------------------------------------------------------------------------


class Norm(nn.Module):
    """Normalises the last dimension, of ``width`` features."""

    def __init__(self, config: Settings, model: Settings, width: int) -> None:
        super().__init__()
        self.config, self.width = config, width
        self.weight = nn.Parameter(torch.empty(width))
        self.bias = nn.Parameter(torch.empty(width)) if either(config.bias, model.bias) else None


class LayerNorm(Norm):
    """(x - mean) / sqrt(var + eps) * weight + bias (Ba et al., 2016)."""

    def begin(self) -> None:
        fill(self.weight, 1)
        fill(self.bias, 0)

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.config.eps)


class RMSNorm(Norm):
    """x / sqrt(mean(x^2) + eps) * weight (Zhang and Sennrich, 2019); Gemma's weight is an offset from 1."""

    def __init__(self, config: Settings, model: Settings, width: int) -> None:
        super().__init__(config, model, width)
        self.bias, self.weight = None, self.weight if config.scale else None

    def begin(self) -> None:
        fill(self.weight, 0 if self.config.unit_offset else 1)

    def forward(self, x: Tensor) -> Tensor:
        x = unit_rms(x, self.config.eps)
        if self.weight is None:
            return x
        return x * (1 + self.weight if self.config.unit_offset else self.weight)


class ScaleNorm(Norm):
    """One learned length for all vectors (Nguyen and Salazar, 2019)."""

    def __init__(self, config: Settings, model: Settings, width: int) -> None:
        super().__init__(config, model, width)
        self.bias, self.weight = None, nn.Parameter(torch.empty(1))

    def begin(self) -> None:
        fill(self.weight, self.width**0.5)

    def forward(self, x: Tensor) -> Tensor:
        length = x.float().norm(dim=-1, keepdim=True).clamp(min=self.config.eps)
        return (x.float() * (self.weight.float() / length)).to(x.dtype)


def unit_rms(x: Tensor, eps: float) -> Tensor:
    """Divide by the root mean square, in fp32."""
    return (x.float() * (x.float().square().mean(-1, keepdim=True) + eps).rsqrt()).to(x.dtype)


def either(own: bool | None, general: bool | None) -> bool:
    """Return a part's own choice, or the model's where it makes none."""
    return bool(general if own is None else own)


NORMS = {"layer_norm": LayerNorm, "rms_norm": RMSNorm, "scale_norm": ScaleNorm}


def norm(config: Settings, model: Settings, width: int) -> nn.Module:
    """Return the norm that ``config`` names."""
    return NORMS[config.type](config, model, width)


ACTIVATIONS = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": F.relu,
    "relu_squared": lambda x: F.relu(x).square(),
    "silu": F.silu,
    "tanh": torch.tanh,
}


# --- positions --------------------------------------------------------------------------------------


class Learned(nn.Module):
    """A learned vector for each position (Gehring et al., 2017; GPT-1, GPT-2)."""

    def __init__(self, config: Settings, model: Settings) -> None:
        super().__init__()
        self.std = model.init.std if model.init else 0.02
        self.weight = nn.Parameter(torch.empty(model.max_seq_len, model.d_model))

    def begin(self) -> None:
        fill(self.weight, torch.randn_like(self.weight) * self.std)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        if (needed := int(positions.max()) + 1) > len(self.weight):
            raise ValueError(f"{needed} tokens were given, but positions end at {len(self.weight)}; shorten the input")
        return x + self.weight[positions]


class Sinusoidal(nn.Module):
    """Sines and cosines of ever longer waves (Vaswani et al., 2017, section 3.5)."""

    def __init__(self, config: Settings, model: Settings) -> None:
        super().__init__()
        self.config = config

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        angles = positions[..., None] * frequencies(x.shape[-1], self.config.theta, x.device)  # (B, T, D/2)
        waves = torch.stack((angles.sin(), angles.cos()), -1).flatten(-2)
        return x + (self.config.scale * waves).to(x.dtype)


POSITIONS = {"learned": Learned, "sinusoidal": Sinusoidal}
"""Those that are added to embeddings; rotary and alibi work inside attention."""


def frequencies(width: int, theta: float, device: Any) -> Tensor:
    """Return how far (r/2,) each pair of ``width`` features turns a position, in radians."""
    return 1.0 / theta ** (torch.arange(0, width, 2, device=device, dtype=torch.float32) / width)


def linear_scaling(s: Settings, width: int, theta: float, device: Any) -> tuple[Tensor, float]:
    """Slow all pairs down (Chen et al., 2023)."""
    return frequencies(width, theta, device) / s.factor, 1.0


def ntk_scaling(s: Settings, width: int, theta: float, device: Any) -> tuple[Tensor, float]:
    """Raise theta until the slowest pair is slower by the factor (Peng et al., 2023, section 3.1)."""
    return frequencies(width, theta * s.factor ** (width / (width - 2)), device), 1.0


def yarn_scaling(s: Settings, width: int, theta: float, device: Any) -> tuple[Tensor, float]:
    """Slow down pairs that turn seldom in the original context, and sharpen scores (Peng et al., 2023)."""
    ends = [
        width * math.log(s.original_max_seq_len / (turns * 2 * math.pi)) / (2 * math.log(theta))
        for turns in (s.beta_fast, s.beta_slow)
    ]
    first, last = (math.floor(ends[0]), math.ceil(ends[1])) if s.truncate else ends
    first = max(first, 0)
    last = max(min(last, width - 1), first + 1e-3)
    pairs = torch.arange(width // 2, dtype=torch.float32, device=device)
    kept = 1 - ((pairs - first) / (last - first)).clamp(0, 1)
    found = frequencies(width, theta, device)
    slowed = found / s.factor * (1 - kept) + found * kept
    return slowed, s.attention_factor or 0.1 * math.log(s.factor) + 1


def llama3_scaling(s: Settings, width: int, theta: float, device: Any) -> tuple[Tensor, float]:
    """Keep high frequencies, slow low ones, blend those between (Llama 3.1, 2024)."""
    found = frequencies(width, theta, device)
    turns = found * (s.original_max_seq_len / (2 * math.pi))
    kept = ((turns - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor)).clamp(0, 1)
    return found * ((1 - kept) / s.factor + kept), 1.0


SCALINGS = {"linear": linear_scaling, "ntk": ntk_scaling, "yarn": yarn_scaling, "llama3": llama3_scaling}


def turn(position: Settings, positions: Tensor, *heads: Tensor) -> tuple[Tensor, ...]:
    """Turn the first feature pairs (i, i + r/2) of ``heads`` (B, ., T, d) by their positions, if these are rotary.

    Su et al., 2021, https://arxiv.org/abs/2104.09864.
    """
    if position.type != "rotary":
        return heads
    width, device = round(position.fraction * heads[0].shape[-1]), positions.device
    if position.scaling is None:
        turning, magnitude = frequencies(width, position.theta, device), 1.0
    else:
        turning, magnitude = SCALINGS[position.scaling.type](position.scaling, width, position.theta, device)
    angles = (positions[..., None].float() * turning).repeat(1, 1, 2)[:, None]  # (B, 1, T, r)
    cos, sin = angles.cos() * magnitude, angles.sin() * magnitude
    return tuple(_turned(x, cos.to(x.dtype), sin.to(x.dtype)) for x in heads)


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    low, high, rest = x.split((cos.shape[-1] // 2, cos.shape[-1] // 2, x.shape[-1] - cos.shape[-1]), -1)
    return torch.cat((torch.cat((low, high), -1) * cos + torch.cat((-high, low), -1) * sin, rest), -1)


def alibi_slopes(n_heads: int) -> list[float]:
    """Return what a position of distance costs each head (Press et al., 2022)."""
    lower = 1 << (n_heads.bit_length() - 1)
    slopes = [[2 ** (-8 * (i + 1) / n) for i in range(n)] for n in (lower, 2 * lower)]
    return [*slopes[0], *slopes[1][::2]][:n_heads]


# --- attentions -------------------------------------------------------------------------------------


class Attention(nn.Module):
    """What attentions share: settings, heads, and values mixed with the first layer's (Zhou et al., 2024)."""

    def __init__(self, config: Settings, model: Settings, index: int, position: Settings) -> None:
        super().__init__()
        self.config, self.model, self.index, self.position = config, model, index, position
        self.head_dim = config.head_dim or model.d_model // config.n_heads
        self.qkv_bias, self.out_bias = either(config.qkv_bias, model.bias), either(config.out_bias, model.bias)

    def with_first_values(self, v: Tensor, batch: Batch) -> Tensor:
        """Mix the first layer's values into ``v``."""
        if not self.model.value_residual:
            return v
        if self.index == 0:
            batch.first_values = v
            return v
        return torch.lerp(v, batch.first_values, self.model.value_residual)

    def merge(self, mixed: Tensor) -> Tensor:
        """Join heads (B, H, T, e) and project back to (B, T, D)."""
        return self.o_proj(mixed.transpose(1, 2).flatten(2))


def heads(x: Tensor, width: int) -> Tensor:
    """Return ``x`` (B, T, H * d) as heads (B, H, T, d)."""
    return x.unflatten(-1, (-1, width)).transpose(1, 2)


class HeadAttention(Attention):
    """Projections to query heads and, maybe fewer, key-value heads."""

    def __init__(self, config: Settings, model: Settings, index: int, position: Settings) -> None:
        super().__init__(config, model, index, position)
        inner, kv_inner = config.n_heads * self.head_dim, (config.n_kv_heads or config.n_heads) * self.head_dim
        self.q_proj = nn.Linear(model.d_model, inner, bias=self.qkv_bias)
        self.k_proj = nn.Linear(model.d_model, kv_inner, bias=self.qkv_bias)
        self.v_proj = nn.Linear(model.d_model, kv_inner, bias=self.qkv_bias)
        self.o_proj = nn.Linear(inner, model.d_model, bias=self.out_bias)
        if config.qk_norm is not None:
            self.q_norm = norm(config.qk_norm, model, self.head_dim)
            self.k_norm = norm(config.qk_norm, model, self.head_dim)

    def project(self, x: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries (B, H, T, d), keys and values (B, K, T, d), without positions."""
        q, k, v = (heads(proj(x), self.head_dim) for proj in (self.q_proj, self.k_proj, self.v_proj))
        if self.config.qk_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        return q, k, self.with_first_values(v, batch)


class Scores:
    """The softmax of scores, with all that may happen to them; shared by softmax, local and latent attention."""

    def make_sinks(self) -> None:
        """Let each head learn a score that carries no value (gpt-oss, 2025)."""
        self.sinks = nn.Parameter(torch.empty(self.config.n_heads)) if self.config.sinks else None

    def begin(self) -> None:
        fill(self.sinks, 0)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, batch: Batch) -> Tensor:
        """Return the values (B, K, S, e) that queries (B, H, T, d) find by keys (B, K, S, d): (B, H, T, e)."""
        config, window = self.config, self.config.window
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1).to(q.dtype) for x in (k, v))
        scale = config.scale or q.shape[-1] ** -0.5
        dropout = config.attention_dropout if self.training else 0.0
        if config.softcap is None and self.sinks is None and self.position.type != "alibi":
            causal = batch.is_plain and window is None
            mask = None if causal else batch.seen(window)
            return F.scaled_dot_product_attention(q, k, v, mask, dropout, causal, scale=scale)
        scores = (q @ k.mT).float() * scale  # (B, H, T, S)
        if config.softcap is not None:
            scores = config.softcap * torch.tanh(scores / config.softcap)
        if self.position.type == "alibi":
            slopes = torch.tensor(alibi_slopes(config.n_heads), device=q.device)[:, None, None]
            scores = scores - slopes * batch.distance()
        scores = scores.masked_fill(~batch.seen(window), -torch.inf)
        if self.sinks is not None:
            sinks = self.sinks.float()[:, None, None].expand(*scores.shape[:-1], 1)
            weights = torch.cat((scores, sinks), -1).softmax(-1)[..., :-1]
        else:
            weights = scores.softmax(-1)
        return F.dropout(weights, dropout).to(v.dtype) @ v


class Softmax(Scores, HeadAttention):
    """Every token sees all earlier ones (Vaswani et al., 2017), or with a window the latest (Beltagy et al., 2020)."""

    def __init__(self, config: Settings, model: Settings, index: int, position: Settings) -> None:
        super().__init__(config, model, index, position)
        self.make_sinks()

    def forward(self, x: Tensor, batch: Batch, memory: Memory | None) -> Tensor:
        q, k, v = self.project(x, batch)
        q, k = turn(self.position, batch.positions, q, k)
        if memory is not None:
            k, v = memory.append(k, v)
        return self.merge(self.mix(q, k, v, batch))


class Latent(Scores, Attention):
    """One latent a token makes the keys and values of all heads (DeepSeek-V2, 2024); positions have features apart."""

    def __init__(self, config: Settings, model: Settings, index: int, position: Settings) -> None:
        super().__init__(config, model, index, position)
        self.make_sinks()
        self.turned, self.value = config.rope_dim or max(2, self.head_dim // 4 * 2), config.value_dim or self.head_dim
        self.latent, queries = config.kv_rank or 4 * self.head_dim, config.n_heads * (self.head_dim + self.turned)
        if config.q_rank is None:
            self.q_proj = nn.Linear(model.d_model, queries, bias=self.qkv_bias)
        else:
            self.q_down_proj = nn.Linear(model.d_model, config.q_rank, bias=self.qkv_bias)
            self.q_norm = norm(config.latent_norm, model, config.q_rank)
            self.q_up_proj = nn.Linear(config.q_rank, queries, bias=False)
        self.kv_down_proj = nn.Linear(model.d_model, self.latent + self.turned, bias=self.qkv_bias)
        self.kv_norm = norm(config.latent_norm, model, self.latent)
        self.kv_up_proj = nn.Linear(self.latent, config.n_heads * (self.head_dim + self.value), bias=False)
        self.o_proj = nn.Linear(config.n_heads * self.value, model.d_model, bias=self.out_bias)

    def forward(self, x: Tensor, batch: Batch, memory: Memory | None) -> Tensor:
        q = self.q_proj(x) if self.config.q_rank is None else self.q_up_proj(self.q_norm(self.q_down_proj(x)))
        q, q_turned = heads(q, self.head_dim + self.turned).split((self.head_dim, self.turned), -1)
        latent, k_turned = self.kv_down_proj(x)[:, None].split((self.latent, self.turned), -1)  # (B, 1, T, .)
        q_turned, k_turned = turn(self.position, batch.positions, q_turned, k_turned)
        latent = self.kv_norm(latent)
        if memory is not None:
            latent, k_turned = memory.append(latent, k_turned)
        k, v = heads(self.kv_up_proj(latent[:, 0]), self.head_dim + self.value).split((self.head_dim, self.value), -1)
        k = torch.cat((k, k_turned.expand(-1, k.shape[1], -1, -1)), -1)
        return self.merge(self.mix(torch.cat((q, q_turned), -1), k, v, batch))


class Decays:
    """What is left of one token at another, in one chunk of C tokens, as factors from 0 to 1.

    Sums of logarithms are formed from one token to the other and not as differences, which would lose their digits.
    """

    def __init__(self, logs: Tensor, real: Tensor, begins: Tensor) -> None:
        logs = torch.where(real[:, None], logs, 0)  # (B, H, C); padding decays nothing
        size = logs.shape[-1]
        below = torch.ones(size, size, dtype=torch.bool, device=logs.device).tril()
        run = begins.long().cumsum(1)  # (B, C): the document begun last; 0 is the one that memory is of
        meets = below & (run[:, :, None] == run[:, None])[:, None]
        sums = logs[..., None].expand(*logs.shape, size).masked_fill(~below.tril(-1), 0).cumsum(-2)
        self.within = sums.masked_fill(~meets, -torch.inf).exp()  # (B, H, C, C): of a key at each query
        self.since = (logs.cumsum(-1).exp() * (run == 0)[:, None])[..., None]  # (B, H, C, 1): of the memory at each
        self.until = (self.within[..., -1, :])[..., None]  # (B, H, C, 1): of each token at the end
        self.across = self.since[..., -1:, :]  # (B, H, 1, 1): of the memory at the end


def in_chunks(batch: Batch, logs: Tensor, *parts: Tensor) -> Any:
    """Yield for each chunk its decays and its share of ``parts`` (B, H, T, .), in fp32."""
    for start in range(0, logs.shape[-1], CHUNK):
        part = slice(start, start + CHUNK)
        decays = Decays(logs[..., part].float(), batch.real[:, part], batch.begins[:, part])
        yield decays, batch.real[:, None, part, None], *(x[:, :, part].float() for x in parts)


class Linear(HeadAttention):
    """A decayed sum of f(k) v^T that f(q) reads, and divides by that of f(k) where f is positive.

    Katharopoulos et al., 2020; decays after Sun et al., 2023, or gated, after Yang et al., 2023.
    """

    FEATURES = {
        "elu": lambda x: F.elu(x) + 1,
        "relu": lambda x: F.relu(x) + 0.1,
    }

    def __init__(self, config: Settings, model: Settings, index: int, position: Settings) -> None:
        super().__init__(config, model, index, position)
        if config.decay == "gated":
            self.decay_proj = nn.Linear(model.d_model, config.n_heads, bias=False)
            self.decay_bias = nn.Parameter(torch.empty(config.n_heads))

    def begin(self) -> None:
        """Let gates at first forget within 32 tokens in the first head, and 512 in the last."""
        if self.config.decay == "gated":
            fill(self.decay_bias, torch.log(torch.logspace(5, 9, self.config.n_heads, base=2.0) - 1))

    def log_decays(self, x: Tensor) -> Tensor:
        """Return the log of what each token of ``x`` leaves of the sums, (B, H, T)."""
        n_heads = self.config.n_heads
        if self.config.decay == "gated":
            return F.logsigmoid(self.decay_proj(x).float() + self.decay_bias.float()).transpose(1, 2)
        if self.config.decay == "retention":
            fixed = torch.log1p(-(2.0 ** (-5 - torch.arange(n_heads, device=x.device))))
            return fixed[None, :, None].expand(len(x), -1, x.shape[1])
        return torch.zeros(len(x), n_heads, x.shape[1], device=x.device)

    def forward(self, x: Tensor, batch: Batch, memory: Memory | None) -> Tensor:
        q, k, v = self.project(x, batch)
        if divides := self.config.feature_map in self.FEATURES:
            q, k = (self.FEATURES[self.config.feature_map](part.float()) for part in (q, k))
        else:
            q = q / math.sqrt(self.head_dim)
        turned = turn(self.position, batch.positions, q, k)  # the denominator's stay, so it is positive
        parts = [part.repeat_interleave(q.shape[1] // part.shape[1], 1) for part in (*turned, q, k, v)]
        with torch.autocast(x.device.type, enabled=False):
            out = self.sums(*parts, self.log_decays(x), batch, memory, divides).to(v.dtype)
        return self.merge(out if divides else unit_rms(out, 1e-3))

    def sums(
        self,
        q: Tensor,
        k: Tensor,
        q_below: Tensor,
        k_below: Tensor,
        v: Tensor,
        logs: Tensor,
        batch: Batch,
        memory: Memory | None,
        divides: bool,
    ) -> Tensor:
        """Return what queries read from the sums (B, H, d, d) and (B, H, d, 1), which pass from chunk to chunk."""
        kv = torch.zeros(*k.shape[:2], self.head_dim, self.head_dim + 1, device=k.device)
        kv, k_sum = (memory.tensors if memory else ()) or kv.split((self.head_dim, 1), -1)
        mixed = []
        for decay, real, q_c, k_c, q_b, k_b, v_c in in_chunks(batch, logs, q, k, q_below, k_below, v):
            k_c, k_b = k_c * real, k_b * real
            out = (q_c @ k_c.mT * decay.within) @ v_c + q_c @ kv * decay.since
            kv = kv * decay.across + (k_c * decay.until).mT @ v_c
            if divides:
                below = (q_b @ k_b.mT * decay.within).sum(-1, keepdim=True) + q_b @ k_sum * decay.since
                k_sum = k_sum * decay.across + (k_b * decay.until).sum(-2)[..., None]
                out = out / (below + 1e-6)
            mixed.append(out)
        if memory is not None:
            memory.replace(kv, k_sum)
        return torch.cat(mixed, 2)


class GatedDelta(Attention):
    """A memory that forgets, and corrects what it holds for a key (Yang et al., 2024, https://arxiv.org/abs/2412.06464).

    S_i = a_i (I - b_i k_i k_i^T) S_(i-1) + b_i k_i v_i^T,   out_i = norm(q_i S_i) * silu(gate(x_i))
    """

    def __init__(self, config: Settings, model: Settings, index: int, position: Settings) -> None:
        super().__init__(config, model, index, position)
        self.value_dim, keys = config.value_dim or self.head_dim, (config.n_key_heads or config.n_heads) * self.head_dim
        values, bias = config.n_heads * self.value_dim, self.qkv_bias
        self.q_proj, self.k_proj = (nn.Linear(model.d_model, keys, bias=bias) for _ in range(2))
        self.v_proj = nn.Linear(model.d_model, values, bias=bias)
        self.a_proj, self.b_proj = (nn.Linear(model.d_model, config.n_heads, bias=False) for _ in range(2))
        self.A_log, self.dt_bias = (nn.Parameter(torch.empty(config.n_heads)) for _ in range(2))
        if config.conv_size:
            widths = (keys, keys, values)
            self.q_conv, self.k_conv, self.v_conv = (nn.Parameter(torch.empty(w, config.conv_size)) for w in widths)
        if config.gate:
            self.gate_proj = nn.Linear(model.d_model, values, bias=bias)
        self.out_norm = norm(config.out_norm, model, self.value_dim)
        self.o_proj = nn.Linear(values, model.d_model, bias=self.out_bias)

    def begin(self) -> None:
        """Draw speeds from 0 to 16 and steps from 0.001 to 0.1, as Mamba-2 does (Dao and Gu, 2024)."""
        fill(self.A_log, torch.empty(self.config.n_heads).uniform_(0.01, 16).log())
        step = torch.empty(self.config.n_heads).uniform_(math.log(1e-3), math.log(0.1)).exp()
        fill(self.dt_bias, step + torch.log(-torch.expm1(-step)))
        for weight in (self.q_conv, self.k_conv, self.v_conv) if self.config.conv_size else ():
            fill(weight, torch.empty(weight.shape).uniform_(-1, 1) / math.sqrt(self.config.conv_size))

    def convolved(self, x: Tensor, batch: Batch, latest: Tensor | None) -> tuple[Tensor, Tensor]:
        """Weigh each token (B, T, features) with the few real ones before it; return also the latest of these."""
        weight = torch.cat((self.q_conv, self.k_conv, self.v_conv)).float()  # (features, conv_size)
        reach = self.config.conv_size - 1
        latest = x.new_zeros(len(x), reach, x.shape[2]) if latest is None else latest
        order = torch.argsort(~batch.real, dim=1, stable=True)  # real tokens side by side, padding behind them
        whole = torch.cat((latest, x.gather(1, order[..., None].expand_as(x))), 1)  # (B, reach + T, features)
        positions, out = batch.positions.gather(1, order)[..., None], torch.zeros_like(x)
        for back in range(reach + 1):
            seen = whole[:, reach - back : whole.shape[1] - back]
            out = out + torch.where(positions >= back, seen, 0) * weight[:, reach - back]
        last = batch.real.sum(1, keepdim=True) + torch.arange(reach, device=x.device)  # (B, reach)
        latest = whole.gather(1, last[..., None].expand(-1, -1, x.shape[2]))
        return out.gather(1, order.argsort(1)[..., None].expand_as(x)), latest

    def forward(self, x: Tensor, batch: Batch, memory: Memory | None) -> Tensor:
        before = memory.tensors if memory else ()
        v = self.with_first_values(heads(self.v_proj(x), self.value_dim), batch).transpose(1, 2).flatten(2)
        parts = (self.q_proj(x).float(), self.k_proj(x).float(), v.float())
        mixed, latest = torch.cat(parts, -1), x.new_zeros(len(x), 0)
        if self.config.conv_size:
            mixed, latest = self.convolved(mixed, batch, before[1] if before else None)
        q, k, v = F.silu(mixed).split([part.shape[-1] for part in parts], -1)
        q, k, v = heads(q, self.head_dim), heads(k, self.head_dim), heads(v, self.value_dim)
        q, k = (
            part * (part.square().sum(-1, keepdim=True) + 1e-6).rsqrt()
            for part in turn(self.position, batch.positions, q, k)
        )
        q, k = (part.repeat_interleave(v.shape[1] // part.shape[1], 1) for part in (q / math.sqrt(self.head_dim), k))
        beta = self.b_proj(x).float().sigmoid() * (2 if self.config.allow_neg_eigval else 1)
        step = F.softplus(self.a_proj(x).float() + self.dt_bias.float())
        logs = (-self.A_log.float().exp() * step).transpose(1, 2)  # (B, H, T)
        with torch.autocast(x.device.type, enabled=False):
            out, held = self.rule(q, k, v, beta.transpose(1, 2)[..., None], logs, batch, before[0] if before else None)
        if memory is not None:
            memory.replace(held, latest)
        out = self.out_norm(out.transpose(1, 2).to(x.dtype)).flatten(2)  # (B, T, H * e)
        return self.o_proj(out * F.silu(self.gate_proj(x)) if self.config.gate else out)

    def rule(
        self, q: Tensor, k: Tensor, v: Tensor, beta: Tensor, logs: Tensor, batch: Batch, held: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Read the memory ``held`` (B, H, d, e) while every token corrects it; return (B, H, T, e) and its end.

        All corrections of a chunk are the solution of one triangular system (https://arxiv.org/abs/2406.06484).
        """
        held = q.new_zeros(*q.shape[:2], self.head_dim, self.value_dim) if held is None else held
        mixed = []
        for decay, real, q_c, k_c, v_c, rate in in_chunks(batch, logs, q, k, v, beta):
            k_c = k_c * real
            system = (k_c * rate) @ k_c.mT * decay.within  # its diagonal counts as 1
            wanted = rate * (v_c - k_c @ held * decay.since)
            written = torch.linalg.solve_triangular(system, wanted, upper=False, unitriangular=True)
            mixed.append(q_c @ held * decay.since + (q_c @ k_c.mT * decay.within) @ written)
            held = held * decay.across + (k_c * decay.until).mT @ written
        return torch.cat(mixed, 2), held


ATTENTIONS = {"softmax": Softmax, "local": Softmax, "latent": Latent, "linear": Linear, "gated_delta": GatedDelta}


# --- feed-forwards ----------------------------------------------------------------------------------


class MLP(nn.Module):
    """Widen, bend, narrow."""

    def __init__(self, config: Settings, model: Settings) -> None:
        super().__init__()
        width, bias = config.d_ff or 4 * model.d_model, either(config.bias, model.bias)
        self.up_proj = nn.Linear(model.d_model, width, bias=bias)
        self.down_proj = nn.Linear(width, model.d_model, bias=bias)
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x: Tensor, batch: Batch) -> Tensor:
        return self.down_proj(self.activation(self.up_proj(x)))


class GLU(nn.Module):
    """Gated linear unit; with silu it is SwiGLU (Shazeer, 2020)."""

    def __init__(self, config: Settings, model: Settings) -> None:
        super().__init__()
        width, bias = config.d_ff or -(-8 * model.d_model // 24) * 8, either(config.bias, model.bias)
        self.gate_proj = nn.Linear(model.d_model, width, bias=bias)
        self.up_proj = nn.Linear(model.d_model, width, bias=bias)
        self.down_proj = nn.Linear(width, model.d_model, bias=bias)
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x: Tensor, batch: Batch) -> Tensor:
        return self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))


class MoE(nn.Module):
    """Each token visits the few experts that its router prefers, and all shared ones (Shazeer et al., 2017)."""

    expert_bias: Tensor | None

    def __init__(self, config: Settings, model: Settings) -> None:
        super().__init__()
        self.config = config
        inner = {"d_ff": config.d_ff} if config.d_ff and "d_ff" in vars(config.expert) else {}
        expert = Settings(**vars(config.expert) | inner)
        self.router = nn.Linear(model.d_model, config.n_experts, bias=False)
        self.experts = nn.ModuleList(feed_forward(expert, model) for _ in range(config.n_experts))
        self.shared = nn.ModuleList(feed_forward(expert, model) for _ in range(config.n_shared))
        bias = torch.zeros(config.n_experts) if config.balance == "bias" else None
        self.register_buffer("expert_bias", bias)

    def begin(self) -> None:
        fill(self.expert_bias, 0)

    def forward(self, x: Tensor, batch: Batch) -> Tensor:
        config, flat = self.config, x.flatten(0, 1)  # (N, D)
        scores = F.linear(flat.float(), self.router.weight.float())
        affinities = scores.softmax(-1) if config.router == "softmax" else scores.sigmoid()
        preferred = affinities if self.expert_bias is None else affinities + self.expert_bias
        chosen = preferred.topk(config.top_k, -1).indices  # (N, k)
        weights = affinities.gather(1, chosen)
        if config.top_k > 1 if config.normalise is None else config.normalise:
            weights = weights / weights.sum(-1, keepdim=True).clamp(min=1e-20)
        if self.training:
            self.ask_for_balance(scores, affinities, chosen, batch)
        out = torch.zeros_like(flat)
        for number, expert in enumerate(self.experts):
            tokens, place = (chosen == number).nonzero(as_tuple=True)
            answer = expert(flat[None, tokens], batch)[0] * (config.scale * weights[tokens, place, None]).to(x.dtype)
            out = out.index_add(0, tokens, answer.to(out.dtype))
        out = out.view_as(x)
        for expert in self.shared:
            out = out + expert(x, batch)
        return out

    def ask_for_balance(self, scores: Tensor, affinities: Tensor, chosen: Tensor, batch: Batch) -> None:
        """Ask for equally busy experts (Fedus et al., 2021, equation 4) and small scores (Zoph et al., 2022)."""
        config, real = self.config, batch.real.flatten()
        if len(real) != len(scores):  # an expert of experts sees chosen tokens, all of which count
            real = real.new_ones(len(scores))
        count = real.sum().clamp(min=1)
        weight = config.balance_weight
        if weight is None:
            weight = 0.01 if config.balance == "loss" else 0.0
        if weight:
            busy = F.one_hot(chosen, config.n_experts)[real].sum((0, 1)) / (count * config.top_k)
            shares = (affinities / affinities.sum(-1, keepdim=True))[real].sum(0) / count
            batch.losses.append(weight * config.n_experts * (busy * shares).sum())
        if config.z_weight:
            batch.losses.append(config.z_weight * scores.logsumexp(-1).square()[real].sum() / count)


FEED_FORWARDS = {"mlp": MLP, "glu": GLU, "moe": MoE}


def feed_forward(config: Settings, model: Settings) -> nn.Module:
    """Return the feed-forward that ``config`` names."""
    return FEED_FORWARDS[config.type](config, model)


# --- the model --------------------------------------------------------------------------------------


class Block(nn.Module):
    """An attention and a feed-forward, wired to the residual stream."""

    NORMS = {
        "parallel": ("attention_norm",),
        "sandwich": ("attention_norm", "attention_post_norm", "feed_forward_norm", "feed_forward_post_norm"),
    }

    def __init__(self, model: Settings, index: int) -> None:
        super().__init__()
        blocks = vars(model.blocks) if model.blocks else {}
        names = model.pattern or list(blocks)
        own = blocks[names[index % len(names)]] if names else Settings()
        attention, position = own.attention or model.attention, own.position or model.position
        self.model = model
        for name in self.NORMS.get(model.wiring, ("attention_norm", "feed_forward_norm")):
            self.add_module(name, norm(model.norm, model, model.d_model))
        self.attention = ATTENTIONS[attention.type](attention, model, index, position)
        self.feed_forward = feed_forward(own.feed_forward or model.feed_forward, model)
        self.dropout = nn.Dropout(model.dropout)
        self.factor = (2 * model.n_layers) ** -0.5 if model.residual_scale == "depth" else model.residual_scale
        for name in ("attention_scale", "feed_forward_scale"):
            scale = None if model.layer_scale is None else nn.Parameter(torch.empty(model.d_model))
            self.register_parameter(name, scale)

    def begin(self) -> None:
        fill(self.attention_scale, self.model.layer_scale)
        fill(self.feed_forward_scale, self.model.layer_scale)

    def add(self, x: Tensor, out: Tensor, scale: Tensor | None) -> Tensor:
        """Return ``x`` with a part's output added to it."""
        return torch.add(x, out if scale is None else out * scale, alpha=self.factor)

    def forward(self, x: Tensor, batch: Batch, memory: Memory | None) -> Tensor:
        def mix(x: Tensor) -> Tensor:
            return self.dropout(self.attention(x, batch, memory))

        def think(x: Tensor) -> Tensor:
            return self.dropout(self.feed_forward(x, batch))

        return getattr(self, self.model.wiring)(x, mix, think)

    def pre(self, x: Tensor, mix: Any, think: Any) -> Tensor:
        """Norm before each part (GPT-2)."""
        x = self.add(x, mix(self.attention_norm(x)), self.attention_scale)
        return self.add(x, think(self.feed_forward_norm(x)), self.feed_forward_scale)

    def post(self, x: Tensor, mix: Any, think: Any) -> Tensor:
        """Norm after each sum (GPT-1)."""
        x = self.attention_norm(self.add(x, mix(x), self.attention_scale))
        return self.feed_forward_norm(self.add(x, think(x), self.feed_forward_scale))

    def sandwich(self, x: Tensor, mix: Any, think: Any) -> Tensor:
        """Norm on both sides of each part (Gemma 2)."""
        x = self.add(x, self.attention_post_norm(mix(self.attention_norm(x))), self.attention_scale)
        return self.add(x, self.feed_forward_post_norm(think(self.feed_forward_norm(x))), self.feed_forward_scale)

    def parallel(self, x: Tensor, mix: Any, think: Any) -> Tensor:
        """Both parts side by side on one norm (GPT-J)."""
        normed = self.attention_norm(x)
        return self.add(self.add(x, mix(normed), self.attention_scale), think(normed), self.feed_forward_scale)

    def parallel_norms(self, x: Tensor, mix: Any, think: Any) -> Tensor:
        """Both parts side by side, each on a norm of its own (GPT-NeoX)."""
        mixed, thought = mix(self.attention_norm(x)), think(self.feed_forward_norm(x))
        return self.add(self.add(x, mixed, self.attention_scale), thought, self.feed_forward_scale)


@dataclass
class GPTOutput(CausalLMOutputWithPast):
    """What the model returns, with the vectors that the head reads: some trainers compute the loss from these."""

    last_hidden_state: Tensor | None = None


class GPTWrightForCausalLM(PreTrainedModel, GenerationMixin):
    """The GPT: tokens in, logits out."""

    config_class = GPTWrightConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    _input_embed_layer = "token_embedding"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["Block"]
    _tied_weights_keys = {"lm_head.weight": "token_embedding.weight"}
    _keep_in_fp32_modules_strict = ["expert_bias"]
    _skip_keys_device_placement = ["past_key_values"]

    def __init__(self, config: GPTWrightConfig) -> None:
        super().__init__(config)
        model = self.model_settings = Settings.of(config.gptwright)
        width = model.d_embedding or model.d_model
        self.token_embedding = nn.Embedding(config.vocab_size, width)
        if width != model.d_model:
            self.embedding_proj = nn.Linear(width, model.d_model, bias=False)
        if model.embedding_norm is not None:
            self.embedding_norm = norm(model.embedding_norm, model, model.d_model)
        added = POSITIONS.get(model.position.type)
        self.position = None if added is None else added(model.position, model)
        self.dropout = nn.Dropout(model.dropout)
        self.layers = nn.ModuleList(Block(model, index) for index in range(model.n_layers))
        self.final_norm = nn.Identity() if model.wiring == "post" else norm(model.norm, model, model.d_model)
        self.lm_head = nn.Linear(model.d_model, config.vocab_size, bias=bool(model.head_bias))
        self.gradient_checkpointing = False
        for name, module in self.named_modules():
            module.adds_to_stream = name.rpartition(".")[2] in ("o_proj", "down_proj")
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        model = self.model_settings
        std = model.init.std if model.init else 0.02
        if isinstance(module, nn.Linear | nn.Embedding):
            depth = 2 * model.n_layers if getattr(module, "adds_to_stream", False) else 1  # as GPT-2 begins
            fill(module.weight, torch.randn_like(module.weight) * std / math.sqrt(depth))
            fill(getattr(module, "bias", None), 0)
        elif hasattr(module, "begin"):
            module.begin()

    def _prepare_cache_for_generation(self, generation_config: Any, model_kwargs: dict[str, Any], *_: Any) -> None:
        """Give `generate` a cache of our own kind."""
        if model_kwargs.get("past_key_values") is None and generation_config.use_cache is not False:
            model_kwargs["past_key_values"] = GPTWrightCache(self.config.num_hidden_layers)

    def enter(self, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
        """Return what enters the residual stream (B, T, D), without positions."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        model = self.model_settings
        x = self.token_embedding(input_ids) if inputs_embeds is None else inputs_embeds
        if hasattr(self, "embedding_proj"):
            x = self.embedding_proj(x)
        if hasattr(self, "embedding_norm"):
            x = self.embedding_norm(x)
        scale = model.d_model**0.5 if model.embedding_scale == "width" else model.embedding_scale
        return x if scale in (None, 1) else x * scale

    def remembering(self, past: Any, use_cache: bool | None) -> GPTWrightCache | None:
        """Return the cache to use, if any: the one given, or a new one where one is asked for."""
        if isinstance(past, GPTWrightCache):
            return past
        if past is not None and past.get_seq_length():
            raise ValueError(
                f"past_key_values is a {type(past).__name__} of {past.get_seq_length()} tokens, and this model has a "
                "GPTWrightCache; give one that an earlier call returned"
            )
        wanted = self.config.use_cache and not self.training if use_cache is None else use_cache
        return GPTWrightCache(len(self.layers)) if wanted or past is not None else None

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> GPTOutput:
        """Return the logits (B, T, V) of the token after each of ``input_ids`` (B, T).

        Args:
            input_ids: token ids.
            attention_mask: (B, T), or (B, S) with those of the cache in front; 0 at padding, on either side.
            position_ids: (B, T) positions, which begin anew at 0 with each document packed into a row; by default
                real tokens are counted.
            past_key_values: what an earlier call returned.
            inputs_embeds: vectors in place of those of ``input_ids``.
            labels: (B, T) the tokens themselves, -100 where nothing is to be learned.
            use_cache: whether to return a cache; by default yes, but in training.
            output_hidden_states: whether to return what enters each layer, and what the head reads.
            logits_to_keep: how many of the last positions to return logits for, or which; 0 is all.
            kwargs: what `loss_function` takes.
        """
        x = self.enter(input_ids, inputs_embeds)
        cache = self.remembering(past_key_values, use_cache)
        real = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        if attention_mask is not None:
            real = attention_mask[:, -x.shape[1] :].to(x.device).bool()
        batch = Batch(real, None if position_ids is None else position_ids.expand(real.shape), cache)
        x = x if self.position is None else self.position(x, batch.positions)
        x, hidden = self.dropout(x), []
        for index, layer in enumerate(self.layers):
            hidden.append(x)
            if self.gradient_checkpointing and self.training:
                x = self._gradient_checkpointing_func(layer.__call__, x, batch, None)
            else:
                x = layer(x, batch, None if cache is None else cache.layers[index])
        x = self.final_norm(x)
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(x[:, keep])
        if cap := self.model_settings.logit_softcap:
            logits = cap * torch.tanh(logits / cap)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
            loss = loss + sum(batch.losses)
        shown = (*hidden, x) if output_hidden_states else None
        return GPTOutput(loss, logits, cache, shown, None, x)
