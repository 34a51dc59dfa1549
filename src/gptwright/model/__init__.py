"""The model: settings, blocks, the GPT itself, initialisation and counting."""

from pathlib import Path

PRESETS = Path(__file__).parent / "presets"
"""The folder whose files can be named without path and ending."""
