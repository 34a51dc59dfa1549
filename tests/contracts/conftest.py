"""Makes `my_file.py`, which lies outside the package, importable, and counts the combinations that ran."""

import importlib
import sys

import pytest

from . import strangers

RAN: list[int] = []
DRAWN_AGAIN: list[int] = []


@pytest.fixture(scope="session", autouse=True)
def my_file(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "my_file.py").write_text(strangers.MY_FILE, "utf-8")
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    yield folder / "my_file.py"
    sys.path.remove(str(folder))


@pytest.fixture
def ran():
    """Count whole-model combinations: the number is printed at the end."""
    return RAN.append


@pytest.fixture
def drawn_again():
    """Count laws that were held against other weights, since the first ones were ill-conditioned."""
    return DRAWN_AGAIN.append


def pytest_terminal_summary(terminalreporter) -> None:
    if RAN:
        terminalreporter.write_line(
            f"contracts: {sum(RAN)} whole-model combinations of the full product ran, "
            f"and {sum(DRAWN_AGAIN)} of their laws needed a second draw of weights"
        )
