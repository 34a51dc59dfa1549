"""gptwright: build, train, compare and run GPTs from interchangeable parts.

Nothing heavy is imported until a name is used: ``import gptwright`` loads neither torch nor numpy.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "Attention": "gptwright.nn.base",
    "FeedForward": "gptwright.nn.base",
    "LayerContext": "gptwright.nn.base",
    "Norm": "gptwright.nn.base",
    "Position": "gptwright.nn.base",
    "Sequence": "gptwright.ops.sequence",
    "GPT": "gptwright.model.gpt",
    "ModelConfig": "gptwright.model.config",
    "RunConfig": "gptwright.train.config",
    "freeze": "gptwright.model.freeze",
    "unfreeze": "gptwright.model.freeze",
    "loss": "gptwright.ops.loss",
    "load": "gptwright.train.load",
    "train": "gptwright.train.loop",
    "generate": "gptwright.generate.text",
    "stream": "gptwright.generate.text",
    "Completion": "gptwright.generate.completion",
    "evaluate": "gptwright.evaluate.likelihood",
    "from_pretrained": "gptwright.interop.importing",
    "export": "gptwright.interop.exporting",
    "push_to_hub": "gptwright.interop.exporting",
    "GPTWrightForCausalLM": "gptwright.interop.causal_lm",
    "GptwrightError": "gptwright.errors",
    "ConfigError": "gptwright.errors",
    "DataError": "gptwright.errors",
    "CheckpointError": "gptwright.errors",
    "Unsupported": "gptwright.errors",
}

__all__ = [
    "GPT",
    "Attention",
    "CheckpointError",
    "Completion",
    "ConfigError",
    "DataError",
    "FeedForward",
    "GPTWrightForCausalLM",
    "GptwrightError",
    "LayerContext",
    "ModelConfig",
    "Norm",
    "Position",
    "RunConfig",
    "Sequence",
    "Unsupported",
    "__version__",
    "evaluate",
    "export",
    "freeze",
    "from_pretrained",
    "generate",
    "load",
    "loss",
    "push_to_hub",
    "stream",
    "train",
    "unfreeze",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'gptwright' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})


class _Face(ModuleType):
    """Keeps ``gptwright.train`` the function, although importing the package of that name would put it here."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Face


if TYPE_CHECKING:
    from gptwright.errors import CheckpointError, ConfigError, DataError, GptwrightError, Unsupported
    from gptwright.evaluate.likelihood import evaluate
    from gptwright.generate.completion import Completion
    from gptwright.generate.text import generate, stream
    from gptwright.interop.causal_lm import GPTWrightForCausalLM
    from gptwright.interop.exporting import export, push_to_hub
    from gptwright.interop.importing import from_pretrained
    from gptwright.model.config import ModelConfig
    from gptwright.model.freeze import freeze, unfreeze
    from gptwright.model.gpt import GPT
    from gptwright.nn.base import Attention, FeedForward, LayerContext, Norm, Position
    from gptwright.ops.loss import loss
    from gptwright.ops.sequence import Sequence
    from gptwright.train.config import RunConfig
    from gptwright.train.load import load
    from gptwright.train.loop import train
