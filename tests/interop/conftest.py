"""Peace and quiet: `transformers` logs and shows progress by default."""

import pytest

transformers = pytest.importorskip("transformers", reason="the peer; it comes with gptwright[dev]")


@pytest.fixture(autouse=True)
def quiet():
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    yield
    transformers.logging.set_verbosity(level)
