"""The model card of an export: what it is, what was measured, how to use it."""

from collections.abc import Iterator
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from gptwright.interop.trained import Trained
from gptwright.model.config import ModelConfig

if TYPE_CHECKING:
    from gptwright.interop.family import Family

_MEASURED = (
    ("step", "optimizer steps", "{:,}"),
    ("tokens", "tokens trained on", "{:,}"),
    ("val_loss", "validation loss, nats a token", "{:.4f}"),
    ("val_bits_per_byte", "validation bits a byte", "{:.4f}"),
)


def card(trained: Trained, family: "Family | None") -> str:
    """Return the text of `README.md` with its front matter.

    Figures stand in it only where they were measured.
    """
    return "\n".join(
        [*_front(family), *_about(trained), *_measured(trained), *_use(trained, family), *_training(trained)]
    )


def _front(family: "Family | None") -> Iterator[str]:
    tags = ["gptwright", *(["custom_code"] if family is None else [])]
    yield from ("---", "library_name: transformers", "pipeline_tag: text-generation", "tags:")
    yield from (f"- {tag}" for tag in tags)
    yield from ("---", "")


def _about(trained: Trained) -> Iterator[str]:
    config = trained.config
    yield from ("# A GPT made with gptwright", "", "| | |", "|---|---|")
    for name, value in _facts(config):
        yield f"| {name} | {value} |"
    if trained.tokenizer is not None:
        yield f"| tokenizer | {trained.tokenizer.type_name()}, {trained.tokenizer.vocab_size:,} ids |"
    if trained.origin:
        yield f"| imported from | {_words(trained.origin.get('source'))} ({_words(trained.origin.get('family'))}) |"
    yield ""


def _facts(config: ModelConfig) -> Iterator[tuple[str, Any]]:
    yield "parameters", f"{config.num_params():,}"
    if config.active_params() != config.num_params():
        yield "active for a token", f"{config.active_params():,}"
    yield "layers", config.n_layers
    yield "width", config.d_model
    yield "context", f"{config.max_seq_len:,} tokens"
    parts = [config.layer(index) for index in range(config.n_layers)]
    yield "attention", ", ".join(dict.fromkeys(attention.type for attention, _ in parts))
    yield "feed-forward", ", ".join(dict.fromkeys(feed_forward.type for _, feed_forward in parts))
    yield "norm, wiring", f"{config.norm.type}, {config.wiring}"
    yield "position", config.position.type


def _measured(trained: Trained) -> Iterator[str]:
    yield from ("## Measured", "")
    rows = [(label, form.format(trained.metrics[key])) for key, label, form in _MEASURED if key in trained.metrics]
    if not rows:
        yield from ("Nothing was measured before this export: evaluate it on text of your own.", "")
        return
    yield from ("| | |", "|---|---|")
    yield from (f"| {label} | {value} |" for label, value in rows)
    data = trained.settings.data.described if trained.settings is not None and trained.settings.data else None
    if data:
        name = PurePath(_words(data)).name  # where a file lies on somebody's machine is nobody's business
        yield from ("", f"On the validation split of `{name}`, which it was not trained on.")
    yield ""


def _use(trained: Trained, family: "Family | None") -> Iterator[str]:
    trust = "" if family is not None else ", trust_remote_code=True"
    yield from ("## Use", "", "```python")
    yield "from transformers import AutoModelForCausalLM, AutoTokenizer"
    yield ""
    yield f'model = AutoModelForCausalLM.from_pretrained("FOLDER_OR_ID"{trust})'
    if trained.tokenizer is not None:
        yield f'tokenizer = AutoTokenizer.from_pretrained("FOLDER_OR_ID"{trust})'
        yield 'inputs = tokenizer("Once", return_tensors="pt")'
        yield "print(tokenizer.decode(model.generate(**inputs, max_new_tokens=50)[0]))"
    yield from ("```", "")
    yield from ("With gptwright: `gptwright import FOLDER_OR_ID --out runs/NAME`.", "")


def _training(trained: Trained) -> Iterator[str]:
    if trained.settings is None:
        return
    yield from ("## Training", "", "All settings are in `gptwright/config.yaml`.", "")


def _words(value: Any) -> str:
    """Return text that is safe in a table: it may come from a folder of others."""
    return " ".join(str(value).replace("|", "/").replace("`", "'").replace("<", "(").replace(">", ")").split())[:200]
