"""Makes `my_file.py`, which lies outside the package, importable, and counts the combinations that ran."""

import importlib
import sys

import pytest

from . import strangers

RAN: list[int] = []


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


def pytest_terminal_summary(terminalreporter) -> None:
    if RAN:
        terminalreporter.write_line(f"contracts: {sum(RAN)} whole-model combinations of the full product ran")
