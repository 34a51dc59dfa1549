"""How every verb reads its settings."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptwright.config.load import Resolved

if TYPE_CHECKING:
    from gptwright.train.config import RunConfig


def resolve(
    config: str | Path | None,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    trust_code: bool = True,
    *,
    trust_saved: bool = False,
    own: Path | None = None,
) -> "Resolved[RunConfig]":
    """Read the settings of a run from a file or preset and `key=value` arguments; notes go to stderr.

    See `gptwright.train.settings.read_settings` for the rest.

    Raises:
        ConfigError: a file cannot be read, or settings are wrong.
        CheckpointError: there is no sound checkpoint where `init_from` says.
    """
    from gptwright.train.settings import read_settings

    resolved = read_settings(config, overrides, trust_code=trust_code, trust_saved=trust_saved, own=own)
    for note in resolved.notes:
        print(f"note: {note}", file=sys.stderr)  # noqa: T201 - stdout is for the result alone
    return resolved
