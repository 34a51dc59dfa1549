"""Initialisation: how the weights of a model begin, by strategy and by name.

Linear layers, embeddings and position tables are initialised here; any other parameter keeps what its
component gave it, unless an override names it.
"""

import math
from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import partial

import torch
from torch import Tensor, nn

from gptwright.errors import ConfigError
from gptwright.model.config import InitConfig, ModelConfig
from gptwright.nn.base import Module, Position

Initialiser = Callable[[Tensor], object]


def initialise(model: nn.Module, config: ModelConfig) -> None:
    """Set the weights of ``model`` as ``config.init`` says, drawing from torch's global generator."""
    init = config.init
    residual = _residual_outputs(model)
    for name, param in _plain_parameters(model):
        initialiser = _initialiser(init.strategy, init, param, name in residual, config.n_layers)
        if _is_table(name):
            initialiser = partial(nn.init.normal_, std=init.std)
        if param.ndim < 2:
            initialiser = nn.init.zeros_
        initialiser(param)
    _override(model, init, residual, config.n_layers)


def _plain_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Return the parameters of linear layers, embeddings and positions, shared ones once."""
    names = {param: name for name, param in model.named_parameters()}
    kinds = (nn.Linear, nn.Embedding, Position)
    owned = (param for module in model.modules() if isinstance(module, kinds) for param in module.parameters(False))
    return [(names[param], param) for param in dict.fromkeys(owned)]


def _is_table(name: str) -> bool:
    return name.startswith(("token_embedding.", "position."))


def _residual_outputs(model: nn.Module) -> set[str]:
    found = set()
    for prefix, module in model.named_modules():
        if isinstance(module, Module):
            for name, _ in module.named_parameters():
                if any(fnmatchcase(name, pattern) for pattern in module.RESIDUAL_OUTPUTS):
                    found.add(f"{prefix}.{name}")
    return found


def _initialiser(strategy: str, init: InitConfig, param: Tensor, residual: bool, n_layers: int) -> Initialiser:
    if strategy == "zero_residual" and residual:
        return nn.init.zeros_
    if strategy in ("gpt2", "zero_residual"):
        scale = 1 / math.sqrt(2 * n_layers) if residual else 1.0
        return partial(nn.init.normal_, std=init.std * scale)
    named: dict[str, Initialiser] = {
        "normal": partial(nn.init.normal_, std=init.std),
        "xavier_uniform": nn.init.xavier_uniform_,
        "xavier_normal": nn.init.xavier_normal_,
        "kaiming": partial(nn.init.kaiming_normal_, nonlinearity="relu"),
        "zeros": nn.init.zeros_,
        "ones": nn.init.ones_,
    }
    return named[strategy]


def _override(model: nn.Module, init: InitConfig, residual: set[str], n_layers: int) -> None:
    params = dict(model.named_parameters())
    for pattern, strategy in init.overrides.items():
        matched = [name for name in params if fnmatchcase(name, pattern)]
        if not matched:
            raise ConfigError(
                f"model.init.overrides names '{pattern}', which matches no parameter; "
                f"names look like '{_sample(params)}'"
            )
        for name in matched:
            if params[name].ndim < 2 and strategy not in ("zeros", "ones", "normal"):
                continue  # fan-in has no meaning for a vector
            with torch.no_grad():
                _initialiser(strategy, init, params[name], name in residual, n_layers)(params[name])


def _sample(params: dict[str, nn.Parameter]) -> str:
    return next((name for name in params if name.startswith("layers.")), next(iter(params)))
