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
from gptwright.nn.patterns import matches, named_by

Initialiser = Callable[[Tensor], object]


def initialise(model: nn.Module, config: ModelConfig) -> None:
    """Set the weights of ``model`` as ``config.init`` says, drawing from torch's global generator."""
    init = config.init
    residual = _residual_outputs(model)
    for name, param in _plain_parameters(model):
        initialiser = _initialiser(init.strategy, init, name in residual, config.n_layers)
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


def _initialiser(strategy: str, init: InitConfig, residual: bool, n_layers: int) -> Initialiser:
    if strategy == "zero_residual" and residual:
        return nn.init.zeros_
    if strategy in ("gpt2", "zero_residual"):
        scale = 1 / math.sqrt(2 * n_layers) if residual else 1.0
        return partial(nn.init.normal_, std=init.std * scale)
    if strategy in _BY_FAN:
        return partial(_each_matrix, _BY_FAN[strategy])
    named = {"normal": partial(nn.init.normal_, std=init.std), "zeros": nn.init.zeros_, "ones": nn.init.ones_}
    return named[strategy]


_BY_FAN: dict[str, Initialiser] = {
    "xavier_uniform": nn.init.xavier_uniform_,
    "xavier_normal": nn.init.xavier_normal_,
    "kaiming": partial(nn.init.kaiming_normal_, nonlinearity="relu"),
    "kaiming_normal": partial(nn.init.kaiming_normal_, nonlinearity="relu"),
    "kaiming_uniform": partial(nn.init.kaiming_uniform_, nonlinearity="relu"),
}
"""Strategies that look at a matrix's inputs and outputs (Glorot and Bengio, 2010; He et al., 2015)."""


def _each_matrix(initialiser: Initialiser, param: Tensor) -> None:
    """Initialise a matrix (out, in), or each of a stack (..., out, in), which torch would take for a convolution."""
    for matrix in param.flatten(0, -3) if param.ndim > 2 else (param,):
        initialiser(matrix)


@torch.no_grad()
def _override(model: nn.Module, init: InitConfig, residual: set[str], n_layers: int) -> None:
    params = dict(model.named_parameters())
    for pattern, strategy in init.overrides.items():
        _refuse_tied(model, params, pattern)
        matched = named_by(pattern, params, what="model.init.overrides")
        if strategy in _BY_FAN:  # fan-in has no meaning for a vector
            matched = [name for name in matched if params[name].ndim >= 2]
        if not matched:
            raise ConfigError(
                f"model.init.overrides gives '{pattern}' {strategy}, which is for matrices, and that names vectors "
                "alone; use normal, zeros or ones"
            )
        for name in matched:
            _initialiser(strategy, init, name in residual, n_layers)(params[name])


def _refuse_tied(model: nn.Module, params: dict[str, nn.Parameter], pattern: str) -> None:
    """Refuse a pattern for nothing but the second name of a tied parameter: its first one would change unasked."""
    second = [name for name, _ in model.named_parameters(remove_duplicate=False) if name not in params]
    if any(matches(pattern, name) for name in second) and not any(matches(pattern, name) for name in params):
        raise ConfigError(
            f"model.init.overrides names '{pattern}', which is tied to the token embedding; set model.tie_embeddings "
            "to false, or name token_embedding"
        )
