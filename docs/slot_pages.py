"""The page of a slot: for every component of its menu what it is, its settings, what it costs and what it sees."""

import inspect
import json
from collections.abc import Iterator, Mapping
from typing import Any

from pictures import influence_picture
from tables import table

from gptwright import ModelConfig
from gptwright.config.slot import Slot
from gptwright.nn.frequencies import SCALING
from gptwright.nn.slots import ATTENTION, FEED_FORWARD, NORM, POSITION
from gptwright.tokenizer.load import SLOT as TOKENIZER
from gptwright.train.config import CALLBACK, OPTIM, SCHEDULE
from gptwright.train.track.base import TRACKER

SLOTS = {
    ATTENTION: ("model.attention", "How tokens see each other."),
    FEED_FORWARD: ("model.feed_forward", "What each token does by itself."),
    NORM: ("model.norm", "How vectors are normalised."),
    POSITION: ("model.position", "How tokens know where they stand."),
    SCALING: ("model.position.scaling", "How rotary positions read further than the model was trained."),
    TOKENIZER: ("data.tokenizer", "How text becomes tokens."),
    OPTIM: ("optim", "What moves the weights."),
    SCHEDULE: ("schedule", "How the learning rate moves."),
    TRACKER: ("train.trackers", "Where the numbers of a run go besides its own folder."),
    CALLBACK: ("train.callbacks", "What else happens while a run trains."),
}
"""Each slot with its place in the settings and what it is for."""

TYPICAL: dict[str, Any] = {
    "n_heads": 6,
    "n_kv_heads": 6,
    "window": 256,
    "d_ff": 1024,
    "n_experts": 8,
    "kv_rank": 128,
    "head_dim": 64,
    "rope_dim": 32,
    "value_dim": 64,
}
"""Sizes for the cost tables, in place of the tiny ones of the examples."""
D_MODEL, CONTEXTS = 384, (1024, 16384)
SEEN = {
    ATTENTION: """Row by row, what the output at a query depends on: darkest is the key that counts most, each lighter
shade counts less, and nothing is drawn where nothing is seen.""",
    POSITION: """What softmax attention sees of tokens that are all alike, so that only their positions tell them apart:
darkest is the key that counts most.""",
}
"""What the pictures of a slot show."""
MEASURED = "Measured by derivatives of a small random model, built from the code."


def slot_page(slot: Slot, schema: Mapping[str, Any]) -> str:
    """Return the page of one slot: every component of its menu with settings and examples."""
    place, purpose = SLOTS[slot]
    title = slot.kind.replace("_", "-").capitalize()
    lines = [f"# {title}\n", f"{purpose} Written at `{place}` in the settings.\n"]
    for name, component in slot.components().items():
        lines += [f"## {name}\n", inspect.cleandoc(component.__doc__ or "") + "\n"]
        lines += [*table(schema["$defs"][f"{slot.kind}.{name}"]), "\n"]
        lines += cost(slot, name, component)
        if slot in SEEN:
            lines += [f"![what a query sees]({slot.kind}-{name}.svg)\n\n{SEEN[slot]} {MEASURED}\n"]
        lines += ["```yaml\n" + "".join(example(slot, name, settings) for settings in component.EXAMPLES) + "```\n"]
    return "\n".join(lines)


def example(slot: Slot, name: str, settings: Mapping[str, Any]) -> str:
    """Return one line of YAML that chooses the component."""
    inside = ", ".join(f"{key}: {json.dumps(value)}" for key, value in {"type": name, **settings}.items())
    key = SLOTS[slot][0].rpartition(".")[2]
    return f"{key}: {name}\n" if not settings else f"{key}: {{{inside.replace(chr(34), '')}}}\n"


def settings_of(component: Any) -> dict[str, Any]:
    """Return the first example of a component, in sizes that people use."""
    return {key: TYPICAL.get(key, value) for key, value in component.EXAMPLES[0].items()}


def cost(slot: Slot, name: str, component: Any) -> Iterator[str]:
    """Yield the table of what a component costs at d_model 384, counted by the component's own settings."""
    if slot not in (ATTENTION, FEED_FORWARD, NORM, POSITION):
        return
    settings = settings_of(component)
    softmax = {"type": "softmax", "n_heads": 6}
    model = {"vocab_size": 8, "d_model": D_MODEL, "n_layers": 1, "max_seq_len": CONTEXTS[0], "attention": softmax}
    config = ModelConfig.from_dict({**model, slot.kind: {"type": name, **settings}})
    ctx, part = config.context(0), getattr(config, slot.kind)
    inside = ", ".join(f"{key} {value}" for key, value in settings.items())
    yield f"Cost at d_model {D_MODEL}{', ' + inside if inside else ''}:\n"
    yield "| | at 1,024 tokens | at 16,384 tokens |\n|---|---:|---:|"
    yield _row("parameters", [part.num_params(ctx)] * 2)
    if slot in (ATTENTION, FEED_FORWARD):
        yield _row("active for a token", [part.active_params(ctx)] * 2)
        yield _row("forward FLOPs a token", [part.flops_per_token(ctx, context) for context in CONTEXTS])
    if slot is ATTENTION:
        yield _row("bytes of decode state in fp32", [part.state_bytes(ctx, length) for length in CONTEXTS])
    yield ""


def _row(what: str, figures: list[int]) -> str:
    return f"| {what} | " + " | ".join(f"{figure:,}" for figure in figures) + " |"


def pictures() -> Iterator[tuple[str, str]]:
    """Yield (name, SVG) of every picture that the pages show."""
    for name, component in ATTENTION.components().items():
        settings = {**component.EXAMPLES[0], "type": name}
        yield f"attention-{name}", influence_picture({**settings, **({"window": 6} if "window" in settings else {})})
    for name in POSITION.names():
        yield f"position-{name}", influence_picture({"type": "softmax", "n_heads": 4}, name)
