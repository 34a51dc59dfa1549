"""Which architecture of llama.cpp computes what a model of ours computes.

A model is described by a few words a feature; an architecture says which words it knows. What none knows is refused
with what would have to change for the nearest one. The architectures are those of llama.cpp's `src/models`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from gptwright.errors import Unsupported
from gptwright.interop.gguf.features import PLAIN, Features, describe
from gptwright.model.config import ModelConfig

Words = dict[str, tuple[str, ...]]
YES_NO: tuple[str, ...] = ("no", "yes")
GELU = ("mlp with gelu_tanh", "mlp with gelu")
"""What llama.cpp computes by the tanh formula; gelu differs from it by at most 5e-4."""


@dataclass(frozen=True)
class Architecture:
    """An architecture: the words that it knows where they are not the plain ones, and how it wants its tensors."""

    name: str
    knows: Mapping[str, tuple[str, ...]]
    """The words of each feature; where none are given, `PLAIN` has the one that is known."""
    neighbours: bool = False
    """Whether rotary positions turn neighbouring features, so that rows of queries and keys are laid out anew."""
    fused_qkv: bool = False
    """Whether queries, keys and values are one matrix."""
    fused_gate: bool = False
    """Whether gate and up projections are one matrix."""
    zeros: tuple[str, ...] = ()
    """Features whose biases must be there, and are written as zeros where the model has none."""
    own_head: bool = False
    """Whether the head must be written although it is the embedding."""

    def problems(self, features: Features) -> list[str]:
        """Return a phrase for each feature that it does not know."""
        found = []
        for name, value in features.items():
            known = self.knows.get(name, (PLAIN[name],))
            if value not in known:
                hint = " (which a window of max_seq_len tokens is)" if value.startswith("local") else ""
                found.append(f"{name} is {value}, and must be {' or '.join(known)}{hint}")
        return found


_ANY_WIDTH: Words = {"n_heads x head_dim": ("d_model", "another width"), "tie_embeddings": YES_NO}
_SCALED: Words = {"rotary scaling": ("none", "linear", "ntk", "yarn")}
_EVERY_SCALED: Words = {"rotary scaling": ("none", "linear", "ntk", "yarn", "llama3", "yarn with settings of its own")}
_BIASED: Words = dict.fromkeys(("qkv_bias", "out_bias", "feed-forward bias"), YES_NO)
_GPT: Words = {"norm": ("layer_norm",), "norm bias": YES_NO, "feed_forward": GELU, "tie_embeddings": YES_NO} | _BIASED
_ZEROS = ("qkv_bias", "out_bias", "feed-forward bias", "norm bias")
_PART: Words = {"rotary fraction": ("1", "less than 1")}
_GEMMA: Words = {
    "feed_forward": ("glu with gelu_tanh", "glu with gelu"),
    "embedding_scale": ("sqrt(d_model)",),
    "n_heads x head_dim": ("d_model", "another width"),
}
_NORMED: Words = {"qk_norm": ("rms_norm",), "attention.scale": ("default", "another factor")}
"""With a norm of queries comes a vector that can hold any factor on scores."""
_MIXED: tuple[str, ...] = ("glu with silu", "moe of glu with silu")

ARCHITECTURES = (
    Architecture("gpt2", _GPT | {"position": ("learned",), "tie_embeddings": YES_NO}, fused_qkv=True, zeros=_ZEROS),
    Architecture("qwen2", {"qkv_bias": ("yes",), "tie_embeddings": YES_NO} | _SCALED),
    Architecture("llama", {"feed_forward": _MIXED} | _ANY_WIDTH | _EVERY_SCALED | _BIASED, neighbours=True),
    Architecture("qwen3", _NORMED | _ANY_WIDTH | _SCALED),
    Architecture("qwen3moe", _NORMED | {"feed_forward": ("moe of glu with silu",)} | _ANY_WIDTH | _SCALED),
    Architecture(
        "smollm3",
        {"position": ("rotary, none in every 4th layer",)} | _SCALED | {"tie_embeddings": YES_NO},
        neighbours=True,
    ),
    Architecture("starcoder2", _GPT | _SCALED, zeros=_ZEROS),
    Architecture(
        "gptneox",
        _GPT | _SCALED | _PART | {"wiring": ("parallel_norms", "pre")},
        fused_qkv=True,
        zeros=_ZEROS,
        own_head=True,
    ),
    Architecture(
        "phi2",
        _GPT | _SCALED | _PART | {"wiring": ("parallel",), "head_bias": YES_NO},
        fused_qkv=True,
        zeros=(*_ZEROS, "head_bias"),
        own_head=True,
    ),
    Architecture("phi3", _SCALED | _PART | {"tie_embeddings": YES_NO}, fused_qkv=True, fused_gate=True),
    Architecture(
        "granite",
        {
            name: (plain, "another factor")
            for name, plain in (("embedding_scale", "1"), ("residual_scale", "1"), ("attention.scale", "default"))
        }
        | {"embedding_scale": ("1", "sqrt(d_model)", "another factor")}
        | _ANY_WIDTH
        | _EVERY_SCALED
        | _BIASED,
        neighbours=True,
    ),
    Architecture("gemma", _GEMMA | _SCALED),
    Architecture(
        "gemma2",
        _GEMMA
        | _SCALED
        | {
            "wiring": ("sandwich",),
            "attention": ("softmax", "local, every 2nd layer softmax"),
            "softcap": ("set",),
            "logit_softcap": ("set",),
        },
    ),
    Architecture(
        "gemma3",
        _GEMMA
        | _NORMED
        | {
            "wiring": ("sandwich",),
            "attention": ("local, every 6th layer softmax",),
            "rotary scaling": ("none", "linear"),
            "position": ("rotary", "rotary of another theta where local"),
        },
    ),
)


@dataclass(frozen=True)
class Match:
    """An architecture that computes what a model computes."""

    architecture: Architecture
    features: Features
    notes: tuple[str, ...] = field(default=())
    """What differs all the same, or was filled in, for the user."""


def match(config: ModelConfig) -> Match:
    """Return the architecture of llama.cpp for a model.

    Raises:
        Unsupported: there is none; the message says what would have to change for the nearest.
    """
    features = describe(config)
    found = [(architecture.problems(features), architecture) for architecture in ARCHITECTURES]
    problems, nearest = min(found, key=lambda one: len(one[0]))
    if problems:
        raise Unsupported(
            f"no architecture of llama.cpp computes this model; for the nearest, {nearest.name}: "
            f"{'; '.join(problems)}. Train with that, or export with --to hf, which knows every model"
        )
    return Match(nearest, features, tuple(_notes(nearest, features)))


def _notes(architecture: Architecture, features: Features) -> Iterator[str]:
    if features["feed_forward"] == "mlp with gelu" or features["feed_forward"] == "glu with gelu":
        yield "llama.cpp computes gelu by its tanh formula, which differs by at most 5e-4: logits are close, not equal"
    filled = [name for name in architecture.zeros if features.get(name) == "no"]
    if filled:
        yield f"biases that {architecture.name} must have are written as zeros ({', '.join(filled)})"
    if features["rotary scaling"] == "ntk":
        yield "ntk scaling is written as the larger theta that it amounts to"
