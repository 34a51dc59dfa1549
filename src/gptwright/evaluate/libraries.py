"""The optional libraries that evaluation needs, imported when they are wanted."""

import importlib
from typing import Any

from gptwright.errors import GptwrightError


def library(module: str, purpose: str) -> Any:
    """Import ``module`` of the extra ``eval``.

    Raises:
        GptwrightError: it is not installed; the sentence has the pip line.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = {"lm_eval": "lm-eval"}.get(module.partition(".")[0], module.partition(".")[0])
        if error.name is None or error.name.partition(".")[0] != module.partition(".")[0]:
            package = f"{package} (and its {error.name})"
        raise GptwrightError(
            f"{purpose} needs {package}, which is not installed: pip install 'gptwright[eval]'"
        ) from None
