"""Where things are kept that can be made again."""

import os
from pathlib import Path

CACHE_VARIABLE = "GPTWRIGHT_CACHE"


def cache_folder() -> Path:
    """Return the cache: $GPTWRIGHT_CACHE, or gptwright in $XDG_CACHE_HOME, or in ~/.cache."""
    if own := os.environ.get(CACHE_VARIABLE):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "gptwright"
