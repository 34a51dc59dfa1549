"""Where a model comes from: a folder, a file of nanoGPT's, or an id on the hub."""

import re
from pathlib import Path

from gptwright.errors import CheckpointError
from gptwright.hub import fetch

PATTERNS = ("*.json", "*.safetensors", "*.jinja", "merges.txt", "vocab.json", "tokenizer.model", "gptwright/*")
"""Files of the hub that are worth fetching: no pickles, no code."""
_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$|^[\w-]+$")
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z")


def locate(source: str | Path, *, revision: str | None = None) -> Path:
    """Return the folder or file that ``source`` stands for; what is on the hub is fetched first.

    Raises:
        CheckpointError: there is no such thing.
    """
    path = Path(source).expanduser()
    if path.exists():
        if path.is_file() and path.suffix.lower() in _ARCHIVES:
            raise CheckpointError(f"{path} is an archive; unpack it, look what is inside, and give the folder")
        return path
    text = str(source)
    if not _HUB_ID.match(text) or text.startswith((".", "runs/")):
        raise CheckpointError(
            f"there is no folder or file {text} (current directory {Path.cwd()}); give a model's folder, or its id on "
            "the hub as in owner/name"
        )
    try:
        return fetch(text, revision=revision, patterns=PATTERNS)
    except CheckpointError as error:
        here = f"folder {text}"
        known = str(error) if here in str(error) else f"{error} (there is no {here} in {Path.cwd()})"
        raise CheckpointError(known) from error
