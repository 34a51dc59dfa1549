"""For every test: one thread, set before torch is imported, as tiny models gain nothing from two; and a cache apart."""

import os

import pytest

from gptwright.config.cache import cache_folder

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("GPTWRIGHT_NATIVE", str(cache_folder() / "native"))  # compiled once, whatever cache a test has


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory):
    """Keep prepared data out of the user's cache; tests that do not ask for a cache of their own share one."""
    before = os.environ.get("GPTWRIGHT_CACHE")
    os.environ["GPTWRIGHT_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    os.environ.pop("GPTWRIGHT_CACHE")
    if before is not None:
        os.environ["GPTWRIGHT_CACHE"] = before
