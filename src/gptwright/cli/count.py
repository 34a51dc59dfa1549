"""`gptwright count CONFIG`: what a model costs, from its settings alone."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gptwright.cli.output import JsonOption, OverridesArgument, print_facts, print_json, print_table, say, size, write
from gptwright.cli.settings import resolve
from gptwright.errors import ConfigError, GptwrightError

if TYPE_CHECKING:
    from gptwright.model.config import ModelConfig
    from gptwright.model.count import Count, Part
    from gptwright.train.config import RunConfig

_BYTES = {"fp32": 4, "bf16": 2}


def command(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="A YAML file, a preset or a run folder.")],
    overrides: OverridesArgument = None,
    context: Annotated[
        int | None, typer.Option(metavar="N", help="Tokens looked back on. Default: model.max_seq_len.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Print parameters, FLOPs and memory of a model without building it."""
    from gptwright.model.count import count

    if context is not None and context < 1:
        raise GptwrightError(f"--context is {context} and must be at least 1 token")
    model = _with_vocabulary(resolve(_file(config), overrides or ()).config)
    found = count(model, context)
    if as_json:
        print_json(_facts(model, found))
        return
    print_table(("part", "kind", "copies", "parameters", "share", "FLOPs a token, forward"), _rows(found), right=2)
    write("\n")
    print_facts(_totals(model, found))


def _file(config: str) -> str:
    """Return the settings that a run folder keeps, or what was given."""
    own = Path(config) / "config.yaml"
    return str(own) if own.is_file() else config


def _with_vocabulary(settings: "RunConfig") -> "ModelConfig":
    """Return the model with its vocabulary's size, taken from the tokenizer's settings where these tell it.

    Raises:
        ConfigError: only the text would tell.
    """
    model = settings.model
    if model.vocab_size is not None:
        return model
    if settings.data is None:
        raise ConfigError(
            "model.vocab_size is not set, and there is no data whose tokenizer would tell it; give it, as in "
            "model.vocab_size=4096"
        )
    kind = settings.data.tokenizer.type
    known = _known_size(settings.data.tokenizer)
    if not known:
        raise ConfigError(
            f"model.vocab_size is not set: it comes from the {kind} tokenizer, which learns it from the text; give "
            "it for counting, as in model.vocab_size=65"
        )
    say(f"note: vocab_size is taken as {known:,} from the {kind} tokenizer's settings; training takes what it learns")
    return model.model_copy(update={"vocab_size": known})


def _known_size(tokenizer: Any) -> int | None:
    """Return the vocabulary's size that a tokenizer's settings tell, or that it has before it saw any text."""
    if given := getattr(tokenizer, "vocab_size", None):
        return given
    try:
        return tokenizer.owner.train(tokenizer, (), with_eot=False).vocab_size
    except GptwrightError:
        return None


def _rows(found: "Count") -> list[tuple[str, ...]]:
    return [_row(part, found.params) for part in found.parts]


def _row(part: "Part", total: int) -> tuple[str, ...]:
    share = f"{100 * part.params / total:.1f} %"
    return (part.name, part.kind, str(part.copies), f"{part.params:,}", share, f"{part.flops_per_token:,}")


def _totals(model: "ModelConfig", found: "Count") -> list[tuple[str, str]]:
    weights = ", ".join(f"{size(found.params * each)} in {name}" for name, each in _BYTES.items())
    training = found.flops_per_token
    return [
        ("parameters", f"{found.params:,}"),
        ("  without embeddings", f"{found.params_non_embedding:,}"),
        ("  active for a token", f"{found.active_params:,}"),
        ("weights", weights),
        ("vocabulary", f"{model.require_vocab_size():,} tokens"),
        ("context", f"{found.context:,} tokens"),
        ("FLOPs a token", f"{training:,} in training, {training // 3:,} forward"),
        ("decode state", f"{size(found.state_bytes)} a sequence in fp32"),
    ]


def _facts(model: "ModelConfig", found: "Count") -> dict[str, Any]:
    facts = asdict(found)
    return {
        **facts,
        "vocab_size": model.vocab_size,
        "forward_flops_per_token": found.flops_per_token // 3,
        "weight_bytes": {name: found.params * each for name, each in _BYTES.items()},
    }
