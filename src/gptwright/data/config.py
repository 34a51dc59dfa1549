"""Settings of the text that a run learns from."""

from typing import Annotated

from pydantic import Field

from gptwright.config.base import Config
from gptwright.config.slot import ComponentConfig, Slot


class DataConfig(Config):
    """Which text, how it becomes tokens, and how much of it is kept for validation."""

    source: str = Field(min_length=1)
    """A text, .jsonl or .parquet file, a folder of text files, `hf:owner/name`, `python-docs` or `stdlib`."""

    text_field: str = Field("text", min_length=1)
    """The key (JSONL) or column (Parquet, Hugging Face) that holds the text."""

    tokenizer: Annotated[
        ComponentConfig,
        Slot("tokenizer", package="gptwright.tokenizer.kinds", base="gptwright.tokenizer.base:Tokenizer"),
    ] = Field("byte", validate_default=True)
    """How text becomes tokens."""

    val_fraction: float = Field(0.1, gt=0, lt=1)
    """Part kept for validation: of a single document its end, else about this part of the documents."""

    hf_split: str = Field("train", min_length=1)
    """Which split of a Hugging Face dataset to read; validation is cut from it by `val_fraction`."""
