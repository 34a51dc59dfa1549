"""Low-rank adapters: small matrices that train beside frozen ones, and are merged into them afterwards.

A linear layer with weight W (out, in) gains A (rank, in) and B (out, rank), and computes with W + alpha / rank * B A;
B begins at zero, so that training begins with the base. Hu et al., 2021, https://arxiv.org/abs/2106.09685.
The layers are those of PEFT; reading and merging what was saved needs PEFT no more.
"""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from gptwright.config.base import Config
from gptwright.errors import ConfigError, GptwrightError
from gptwright.model.gpt import GPT
from gptwright.nn.patterns import matches, named_by
from gptwright.train.checkpoint import save_tensors

ADAPTER = "default"
"""PEFT's name of the one adapter that a layer has."""
_A, _B = f".lora_A.{ADAPTER}.weight", f".lora_B.{ADAPTER}.weight"
_BASE = ".base_layer."


class LoraConfig(Config):
    """Which layers get adapters, and how large these are."""

    rank: PositiveInt = 8
    """Width of the adapters' inside: a layer gains rank * (in + out) numbers."""
    alpha: PositiveFloat = 16.0
    """The adapters' outputs are multiplied by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Probability of dropping an element of the adapters' input, in training."""
    targets: list[str] = Field(default_factory=lambda: ["q_proj", "v_proj"], min_length=1)
    """Linear layers that get adapters, by patterns of their names: `[q_proj, v_proj]`, `["layers.3"]`."""
    train: list[str] = Field(default_factory=list)
    """Parameters that train besides the adapters, by patterns of their names: `["*norm*"]`."""

    @property
    def scaling(self) -> float:
        """Factor of B A."""
        return self.alpha / self.rank


def add_adapters(model: GPT, config: LoraConfig) -> None:
    """Give ``model`` adapters as ``config`` says, drawn under torch's current seed, and freeze all else.

    Raises:
        ConfigError: a pattern names nothing, or what it names cannot have adapters.
        GptwrightError: PEFT is not installed.
    """
    targets, besides = check(model, config)
    peft = _peft()
    settings = peft.LoraConfig(
        r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=targets, bias="none"
    )
    peft.inject_adapter_in_model(settings, model, adapter_name=ADAPTER)
    for name in targets:
        layer = model.get_submodule(name)
        layer.__class__ = _adapted(type(layer))
    for parameter in besides:
        parameter.requires_grad_(True)
    if config.dropout and model.device.type != "meta":
        _refuse_dropout_without_input(model, targets, config.dropout)


def check(model: nn.Module, config: LoraConfig) -> tuple[list[str], list[nn.Parameter]]:
    """Return the names of the layers that get adapters, and what trains besides; a model on `meta` will do.

    Raises:
        ConfigError: a pattern names nothing, or what it names cannot have adapters.
        GptwrightError: PEFT is not installed.
    """
    _peft()
    targets = dict.fromkeys(name for pattern in config.targets for name in _linear(model, pattern))
    _refuse_tied(model, targets)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    named = (name for pattern in config.train for name in named_by(pattern, parameters, what="lora.train"))
    return list(targets), [parameters[name] for name in named]


def adapted_weight(layer: Any) -> Tensor:
    """Return W + alpha / rank * B A (out, in) of an adapted layer: for parts that use a matrix without calling it."""
    weight, a, b = layer.base_layer.weight, layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
    return weight if layer.merged or layer.disable_adapters else weight + layer.scaling[ADAPTER] * (b @ a)


def merged(weights: Mapping[str, Tensor], config: LoraConfig) -> dict[str, Tensor]:
    """Return ``weights`` of a model with adapters, by name, as those of a plain one that computes the same."""
    found = {name.replace(_BASE, "."): x for name, x in weights.items() if not name.endswith((_A, _B))}
    for name, a in weights.items():
        if name.endswith(_A):
            layer = name.removesuffix(_A)
            change = weights[layer + _B].double() @ a.double()  # so that merging rounds once
            weight = found[f"{layer}.weight"]
            found[f"{layer}.weight"] = (weight.double() + config.scaling * change).to(weight.dtype)
    return found


def write_adapters(weights: Mapping[str, Tensor], config: LoraConfig, folder: Path, base: str | None) -> None:
    """Write the adapters among ``weights`` to ``folder`` as PEFT keeps them: `adapter_model.safetensors` and
    `adapter_config.json`.

    Raises:
        GptwrightError: other parameters trained too, which that format would lose, or there is no adapter.
    """
    if config.train:
        raise GptwrightError(
            f"lora.train {config.train} trained parameters besides the adapters, and adapters alone would lose them; "
            "use the whole model, as gptwright.load returns it, or train without lora.train"
        )
    found = {f"base_model.model.{name.replace(f'.{ADAPTER}.', '.')}": x for name, x in weights.items() if _is(name)}
    settings = {
        "peft_type": "LORA",
        "base_model_name_or_path": base,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "target_modules": sorted(name.removesuffix(_A) for name in weights if name.endswith(_A)),
        "bias": "none",
        "inference_mode": True,
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(found, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(settings, indent=2) + "\n", "utf-8")


def _is(name: str) -> bool:
    return name.endswith((_A, _B))


def _peft() -> Any:
    try:
        import peft
    except ImportError:
        raise GptwrightError("lora needs the package peft; pip install 'gptwright[finetune]'") from None
    return peft


def _linear(model: nn.Module, pattern: str) -> list[str]:
    """Return the names of the linear layers that ``pattern`` names."""
    linear = [f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not any(matches(pattern, name) for name in linear):
        others = [name for name, _ in model.named_parameters() if matches(pattern, name)]
        if others:
            shown = others[0] + (f" and {len(others) - 1} more" if others[1:] else "")
            words = dict.fromkeys(name.split(".")[-2] for name in linear)
            raise ConfigError(
                f"lora.targets names '{pattern}', which is {shown}, and no linear layer; adapters stand beside linear "
                f"layers: {', '.join(words)}; to train others as they are, name them in lora.train"
            )
    found = named_by(pattern, linear, what="lora.targets")
    return [name.removesuffix(".weight") for name in found]


def _refuse_tied(model: nn.Module, targets: Mapping[str, Any]) -> None:
    owners: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(name.removesuffix(".weight"))
    for name in targets:
        shared = owners[id(model.get_submodule(name).weight)]
        if len(shared) > 1:
            other = next(owner for owner in shared if owner != name)
            raise ConfigError(
                f"lora.targets names '{name}', which shares its matrix with {other} (model.tie_embeddings): an adapter "
                f"beside one of them could not be merged; leave it out, or train both with lora.train: [{other}]"
            )


@cache
def _adapted(kind: type) -> type:
    """Return PEFT's layer with a `weight` that has the adapter in it; PEFT's own is that of the base alone.

    Some parts use a matrix without calling its layer: a router in fp32, an absorbed projection, the chunked loss.
    """
    return type(kind.__name__, (kind,), {"weight": property(adapted_weight), "__module__": __name__})


def _refuse_dropout_without_input(model: GPT, targets: list[str], dropout: float) -> None:
    """Refuse dropout for layers of which only the matrix is used: there is no input to drop elements of."""
    called: set[str] = set()
    hooks = [
        model.get_submodule(name).register_forward_pre_hook(lambda *_, name=name: called.add(name)) for name in targets
    ]
    unused = {name for name in targets if ".experts." in name}  # called by the tokens that choose them
    training = model.training
    try:
        with torch.no_grad():
            model.eval()
            ids = torch.zeros(1, 1, dtype=torch.int64, device=model.device)
            hidden = model.hidden(ids, model.describe(ids))
            model.summed_loss(hidden, ids)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    bare = [name for name in targets if name not in called | unused]
    if bare:
        raise ConfigError(
            f"lora.dropout is {dropout}, and {bare[0]} is used by its matrix alone, so that there is no input to drop "
            "elements of; set lora.dropout to 0, or leave that layer out of lora.targets"
        )
