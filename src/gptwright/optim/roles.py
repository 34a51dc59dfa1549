"""Which parameter is what: block matrices, embeddings, the head, and vectors.

Weight decay pulls a matrix towards smaller functions. It has no such meaning for norms and biases, and in an
embedding it would shrink rows whose token was not even in the batch; both are left alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import nn

from gptwright.errors import ConfigError
from gptwright.nn.base import Module

_WRAPPERS = ("_orig_mod.", "module.", "_fsdp_wrapped_module.")
_EMBEDDINGS = ("token_embedding.", "position.")


@dataclass
class Roles:
    """The trainable parameters of a model by role; a shared (tied) parameter appears once, as an
    embedding."""

    matrices: list[nn.Parameter] = field(default_factory=list)
    """Block matrices: under `layers.`, (out, in), or (E, out, in) for a stack of E of them."""
    embeddings: list[nn.Parameter] = field(default_factory=list)
    """Token and position tables: rows that are looked up, not multiplied."""
    head: list[nn.Parameter] = field(default_factory=list)
    """The output matrix, when it is not tied to the embedding."""
    others: list[nn.Parameter] = field(default_factory=list)
    """Other parameters of two or more dimensions: convolutions, projections outside the blocks."""
    vectors: list[nn.Parameter] = field(default_factory=list)
    """Norms, biases, scalars."""


def roles(model: nn.Module) -> Roles:
    """Sort the model's trainable parameters into their roles, in the order of the modules.

    Raises:
        ConfigError: nothing is trainable.
    """
    found = Roles()
    parameters, names, owners = {}, {}, {}
    for name, module, parameter in named(model):
        if not parameter.requires_grad:
            continue
        parameters[id(parameter)] = parameter
        names.setdefault(id(parameter), []).append(name)
        owners.setdefault(id(parameter), []).append(module)
    if not parameters:
        raise ConfigError("the model has no trainable parameter: every one is frozen; unfreeze at least one of them")
    for key, parameter in parameters.items():
        getattr(found, _role(parameter, names[key], owners[key])).append(parameter)
    return found


def named(model: nn.Module) -> Iterator[tuple[str, nn.Module, nn.Parameter]]:
    """Yield every (name, owning module, parameter), frozen ones too, a shared parameter under each of its names.

    Names are the model's own, without the words that wrappers put before them.
    """
    for prefix, module in model.named_modules(remove_duplicate=False):
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            yield _bare(f"{prefix}.{name}" if prefix else name), module, parameter


def _bare(name: str) -> str:
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def _is_filter(owner: nn.Module, name: str) -> bool:
    if isinstance(owner, Module):
        return name.rpartition(".")[2] in owner.FILTERS
    return isinstance(owner, nn.modules.conv._ConvNd)


def _role(parameter: nn.Parameter, names: list[str], owners: list[nn.Module]) -> str:
    if parameter.ndim < 2:
        return "vectors"
    if any(name.startswith(_EMBEDDINGS) for name in names) or any(isinstance(o, nn.Embedding) for o in owners):
        return "embeddings"
    if any(name.startswith("lm_head.") for name in names):
        return "head"
    convolution = any(_is_filter(owner, name) for owner, name in zip(owners, names, strict=True))
    if names[0].startswith("layers.") and parameter.ndim in (2, 3) and not convolution:
        return "matrices"
    return "others"
