"""The gguf package, an extra: imported when it is needed."""

from typing import Any

from gptwright.errors import GptwrightError


def library() -> Any:
    """Return the gguf package.

    Raises:
        GptwrightError: it is not installed.
    """
    try:
        import gguf
    except ImportError:
        raise GptwrightError(
            "writing GGUF needs the gguf package, which is not installed: pip install 'gptwright[gguf]'"
        ) from None
    return gguf
