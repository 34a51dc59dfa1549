"""The law of one graph: `torch.compile(fullgraph=True)` finds nothing that it cannot trace."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from gptwright.check.gradients import worked
from gptwright.check.measure import same, same_gradients
from gptwright.check.models import again, tokens
from gptwright.model.gpt import GPT


def compiled_equals_eager(model: GPT, backend: str = "aot_eager") -> None:
    """Compiled into one graph = run as written, forward and all gradients."""
    model = again(model, n_layers=1, pattern=model.config.pattern[:1])
    ids = tokens(2, 140)
    expected, slow = worked(model, model, ids)
    with _quiet():
        compiled = torch.compile(model, fullgraph=True, backend=backend)
        found, fast = worked(compiled, model, ids)
    same(found, expected, "compiled against eager")
    same_gradients(fast, slow, "compiled against eager", floor=1e-2)


@contextmanager
def _quiet() -> Iterator[None]:
    """Forget graphs of models before, and let torch warn about itself in vain."""
    torch.compiler.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    torch.compiler.reset()
