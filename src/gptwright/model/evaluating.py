"""Using a model for a while as it will be used after training."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Keep ``model`` in eval mode, without dropout, for the time being."""
    before = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(before)
