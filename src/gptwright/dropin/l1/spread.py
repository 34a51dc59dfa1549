"""Model parallelism: the layers of one model on several devices, one after the other.

Shapes: B batch, T tokens, D width.
"""

import dataclasses
from collections.abc import Sequence as Several
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn

from gptwright.dropin.translate import device_named
from gptwright.errors import ConfigError
from gptwright.model.gpt import GPT
from gptwright.ops.sequence import Sequence

M = TypeVar("M", bound=GPT)


def spread(model: M, devices: Several[str]) -> M:
    """Put equal runs of layers on each of ``devices`` in turn, and all else on the first; return the model.

    A batch goes from device to device; they work one after the other, so this makes room and not speed.

    Raises:
        ConfigError: there is no device, or one that does not exist.
    """
    if not devices:
        raise ConfigError("devices is empty; name at least one, as in ['cuda:0', 'cuda:1']")
    places = [device_named(device) for device in devices]
    model.to(places[0])
    for index, layer in enumerate(model.layers):
        place = places[index * len(places) // len(model.layers)]
        layer.to(place).register_forward_pre_hook(partial(_bring, place))
    model.final_norm.register_forward_pre_hook(lambda _, args: (args[0].to(places[0]),))
    return model


def _bring(place: torch.device, layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return a layer's arguments on its device: ``x`` (B, T, D) and the description of the batch."""
    del layer
    x, seq, *state = args
    return x.to(place), seq.once(("on", place), lambda: _moved(seq, place)), *state


def _moved(seq: Sequence, place: torch.device) -> Sequence:
    """Return ``seq`` on a device; what layers ask to be added to the loss still goes into one list."""
    return dataclasses.replace(seq, positions=seq.positions.to(place), segments=seq.segments.to(place), memo={})
