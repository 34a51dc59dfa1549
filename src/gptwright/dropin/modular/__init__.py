"""A GPT whose parts are named by file and class: `attention_type`, `attention_class`, and so for `ffn` and `norm`."""

from gptwright.dropin.modular.config import GPTConfig, load_config
from gptwright.dropin.modular.model import GPTModel

__all__ = ["GPTConfig", "GPTModel", "load_config"]
