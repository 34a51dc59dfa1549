"""Settings of the text that a run learns from."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from gptwright.config.base import Config
from gptwright.config.slot import ComponentConfig, Slot

PackingName = Literal["stream", "documents", "pad"]

_OFF_BY = 1e-5  # how far the weights of a mixture may sum from 1: they are written by hand, in a few digits


class PartConfig(Config):
    """One source of a mixture."""

    source: str = Field(min_length=1)
    """A source, as in `data.source`."""

    weight: float = Field(gt=0, le=1)
    """Its share of the rows that are trained on; the weights of all parts sum to 1."""

    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9._-]+$")
    """What its figures are called in the metrics. Default: the name of the file or folder."""

    text_field: str | None = Field(default=None, min_length=1)
    """The key or column of its text. Default: `data.text_field`."""

    hf_split: str | None = Field(default=None, min_length=1)
    """Which split of a Hugging Face dataset to read. Default: `data.hf_split`."""


class DataConfig(Config):
    """Which text, how it becomes tokens and rows, and how much of it is kept for validation."""

    source: str | None = Field(default=None, min_length=1)
    """A text, .jsonl or .parquet file, a folder of text files, `hf:owner/name`, `python-docs` or `stdlib`; or a folder
    that `gptwright data prepare` or `data import` made, which is used as it is, with its own tokenizer and split."""

    mixture: tuple[PartConfig, ...] | None = Field(default=None, min_length=1)
    """Several sources with weights, instead of `source`:
    `[{source: a.txt, weight: 0.7}, {source: b.jsonl, weight: 0.3, text_field: body}]`."""

    format: Literal["text", "completion", "chat"] = "text"
    """What a document is: text, a prompt with its completion, or the messages of a chat."""

    text_field: str = Field("text", min_length=1)
    """The key (JSONL) or column (Parquet, Hugging Face) that holds the text."""

    prompt_field: str = Field("prompt", min_length=1)
    """The key that holds the prompt, in format `completion`."""

    completion_field: str = Field("completion", min_length=1)
    """The key that holds the completion, in format `completion`."""

    messages_field: str = Field("messages", min_length=1)
    """The key that holds the list of messages, in format `chat`."""

    template: str = Field("chatml", min_length=1)
    """How a chat message is written: `chatml`, `plain`, `headings`, text of your own with {role} and {content}, a Jinja
    template (its text or a .jinja file), or `tokenizer` for the one that a pretrained tokenizer brings along."""

    train_on: Literal["completions", "all"] = "completions"
    """Which tokens of a completion or chat count in the loss: the answers with their end mark, or every one."""

    packing: PackingName | None = None
    """How documents fill rows: `stream` (one line of tokens, cut into windows), `documents` (whole documents side by
    side, each seeing only itself) or `pad` (one document a row). Default: stream; documents for completion and chat."""

    dedup: bool = False
    """Whether to leave out documents that were there before, letter for letter, in any part of a mixture."""

    tokenizer: Annotated[
        ComponentConfig,
        Slot("tokenizer", package="gptwright.tokenizer.kinds", base="gptwright.tokenizer.base:Tokenizer"),
    ] = Field("byte", validate_default=True)
    """How text becomes tokens; a mixture has one for all its parts."""

    tokenizer_characters: PositiveInt = 1 << 25
    """Most characters that a tokenizer learns from, spread evenly over the training text; char sees everything."""

    val_fraction: float = Field(0.1, gt=0, lt=1)
    """Part kept for validation: of a single document its end, else about this part of the documents."""

    hf_split: str = Field("train", min_length=1)
    """Which split of a Hugging Face dataset to read; validation is cut from it by `val_fraction`."""

    hf_subset: str | None = Field(default=None, min_length=1)
    """Which subset (configuration) of a Hugging Face dataset to read. Default the only one."""

    hf_files: str | None = Field(default=None, min_length=1)
    """Which files of a Hugging Face dataset to read: a pattern, `data/en-*.parquet`. Default those of the split."""

    hf_streaming: bool = False
    """Whether a Hugging Face dataset is read over the network as it is needed, a row at a time, and never stored whole.
    It is read three times: to divide it, to learn a tokenizer, and to write its tokens."""

    limit: PositiveInt | None = None
    """Most documents to read of each source, its first ones. Default all."""

    @model_validator(mode="after")
    def _check(self) -> "DataConfig":
        if self.source is not None and self.mixture is not None:
            raise ValueError(
                f"both source '{self.source}' and a mixture of {len(self.mixture)} are given, and only one can be "
                "meant; set the other to null"
            )
        if self.source is None and self.mixture is None:
            raise ValueError(
                "there is no source; give data.source=my-text.txt, or several with their weights under data.mixture"
            )
        if self.packing == "stream" and self.format != "text":
            raise ValueError(
                f"packing stream would run the examples of format {self.format} into one another; use documents or pad"
            )
        self._check_weights()
        names = [part.name for part in self.mixture or () if part.name is not None]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two parts of mixture are named '{twice}'; give each a name of its own")
        return self

    def _check_weights(self) -> None:
        weights = [part.weight for part in self.mixture or ()]
        total = sum(weights)
        if weights and abs(total - 1) > _OFF_BY:
            mended = ", ".join(f"{weight / total:.6g}" for weight in weights)
            raise ValueError(f"the weights of mixture sum to {total:.6g} and must sum to 1; in proportion: {mended}")

    @property
    def parts(self) -> tuple[PartConfig, ...]:
        """The parts of the mixture; a single source is one part of weight 1. Fields left out are filled in."""
        parts = self.mixture or (PartConfig(source=str(self.source), weight=1.0),)
        return tuple(
            part.model_copy(
                update={"text_field": part.text_field or self.text_field, "hf_split": part.hf_split or self.hf_split}
            )
            for part in parts
        )

    @property
    def packed(self) -> PackingName:
        """The packing, chosen by the format where it is not set."""
        return self.packing or ("stream" if self.format == "text" else "documents")

    @property
    def described(self) -> str:
        """The source or sources, in words."""
        if self.mixture is None:
            return str(self.source)
        return " + ".join(f"{part.weight:g} {part.source}" for part in self.mixture)
