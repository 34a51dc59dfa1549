"""Set before anything imports torch: one thread, so that tiny models do not wait for each other, and no shared cache."""

import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory):
    """Prepared data of tests stays out of the user's cache, and is shared between tests that do not ask for their own."""
    before = os.environ.get("GPTWRIGHT_CACHE")
    os.environ["GPTWRIGHT_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    os.environ.pop("GPTWRIGHT_CACHE")
    if before is not None:
        os.environ["GPTWRIGHT_CACHE"] = before
