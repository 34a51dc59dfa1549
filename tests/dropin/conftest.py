"""What the tests of all faces share: ids, and running a published snippet with its import line changed."""

import contextlib
import io

import pytest
import torch


@pytest.fixture
def ids():
    """Draw token ids, the same ones for the same shape: ``ids(batch, length, vocab=50)``."""

    def ids(batch, length, vocab=50):
        return torch.randint(vocab, (batch, length), generator=torch.Generator().manual_seed(0))

    return ids


@pytest.fixture
def typed():
    """Run a snippet: ``typed(text, {"from x import A": "from y import A"})`` returns its names, and what it printed."""

    def typed(text, imports=None, **names):
        for there, here in (imports or {}).items():
            assert there in text
            text = text.replace(there, here)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(text, "snippet", "exec"), names)
        return names, printed.getvalue()

    return typed
