"""A small language model in five files: settings, attention, blocks, the model, and what is done to models."""

from gptwright.dropin.slm import attention, config, gpt, model_utils, transformer

__all__ = ["attention", "config", "gpt", "model_utils", "transformer"]
