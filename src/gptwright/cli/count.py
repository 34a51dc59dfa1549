"""`gptwright count CONFIG`: what a model costs, from its settings alone."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gptwright.cli.output import JsonOption, OverridesArgument, print_facts, print_json, print_table, say, size, write
from gptwright.cli.settings import resolve
from gptwright.errors import ConfigError, GptwrightError, Unsupported

if TYPE_CHECKING:
    from gptwright.model.config import ModelConfig
    from gptwright.model.count import Count, Part
    from gptwright.ops.precision import Name
    from gptwright.train.config import RunConfig
    from gptwright.train.memory import TrainingMemory

_BYTES = {"fp32": 4, "bf16": 2}


def command(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="A YAML file, a preset or a run folder.")],
    overrides: OverridesArgument = None,
    context: Annotated[
        int | None, typer.Option(metavar="N", help="Tokens looked back on. Default: model.max_seq_len.")
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(metavar="N", help="Sequences worked on at once in training. Default: those of the settings."),
    ] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Precision to train in; may be repeated. Default: fp32 and bf16."),
    ] = None,
    optimizer: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Optimizer to train with; may be repeated. Default: that of the settings."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Print parameters, FLOPs and memory of a model and of its training, without building it."""
    from gptwright.model.count import count
    from gptwright.train.step import micro_batch_rows

    for name, given in (("--context", context), ("--batch", batch)):
        if given is not None and given < 1:
            raise GptwrightError(f"{name} is {given} and must be at least 1")
    run = _with_vocabulary(resolve(_file(config), overrides or ()).config)
    found, precisions = count(run.model, context), _known_precisions(precision or ["fp32", "bf16"])
    rows = batch or micro_batch_rows(run.train, found.context)
    found = _with_activations(found, run, rows, precisions[0])
    training = _training(run, found.context, rows, precisions, optimizer or [])
    if as_json:
        print_json(_facts(run.model, found, precisions[0], training))
        return
    _print(run.model, found, training, f"{rows} x {found.context:,} tokens in {precisions[0]}")


def _known_precisions(given: list[str]) -> "list[Name]":
    from gptwright.ops.precision import DTYPES

    for name in given:
        if name not in DTYPES:
            raise GptwrightError(f"--precision is '{name}' and must be one of {', '.join(DTYPES)}")
    return given  # pyright: ignore[reportReturnType]


def _print(model: "ModelConfig", found: "Count", training: "list[TrainingMemory]", batch: str) -> None:
    columns = ("part", "kind", "copies", "parameters", "share", "FLOPs", "state", "activations")
    print_table(columns, _rows(found), right=2)
    write("\n")
    print_facts(_totals(model, found, batch))
    if training:
        write("\n")
        names = [f"{each.precision} {each.optimizer}" for each in training]
        print_table((f"to train {training[0].micro_batch} x {found.context:,}", *names), _memory_rows(training))


def _with_activations(found: "Count", run: "RunConfig", rows: int, precision: "Name") -> "Count":
    """Return ``found`` with activations, or as it is where they cannot be foreseen, which is said."""
    from gptwright.model.memory import with_activations
    from gptwright.ops.precision import DTYPES

    try:
        return with_activations(found, run.model, rows, found.context, DTYPES[precision])
    except Unsupported as error:
        say(f"note: {error}")
        return found


def _training(
    run: "RunConfig", context: int, rows: int, precisions: "Sequence[Name]", optimizers: Sequence[str]
) -> "list[TrainingMemory]":
    """Return the memory of training with each optimizer in each precision, nothing where it cannot be foreseen."""
    from gptwright.train.config import OPTIM
    from gptwright.train.memory import training_memory

    for name in optimizers:
        if name not in OPTIM.names():
            raise GptwrightError(f"--optimizer is '{name}' and must be one of {', '.join(OPTIM.names())}")
    other = {name: run.model_copy(update={"optim": OPTIM.default(name)()}) for name in optimizers}
    runs = [run if name == run.optim.type else other[name] for name in optimizers] or [run]
    try:
        return [
            training_memory(each, precision=precision, micro_batch=rows, context=context)
            for each in runs
            for precision in precisions
        ]
    except Unsupported:  # said already
        return []


def _memory_rows(training: "list[TrainingMemory]") -> list[tuple[str, ...]]:
    fields = ("weights", "working_copy", "gradients", "optimizer_state", "activations", "loss", "peak")
    rows = [(field.replace("_", " "), *(size(getattr(each, field)) for each in training)) for field in fields]
    return [*rows, ("peak in", *(each.peak_at for each in training))]


def _file(config: str) -> str:
    """Return the settings that a run folder keeps, or what was given."""
    own = Path(config) / "config.yaml"
    return str(own) if own.is_file() else config


def _with_vocabulary(settings: "RunConfig") -> "RunConfig":
    """Return the settings with the vocabulary's size, taken from the tokenizer's settings where these tell it.

    Raises:
        ConfigError: only the text would tell.
    """
    if settings.model.vocab_size is not None:
        return settings
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
    return settings.model_copy(update={"model": settings.model.model_copy(update={"vocab_size": known})})


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
    activations = "unknown" if part.activation_bytes is None else size(part.activation_bytes)
    numbers = (f"{part.params:,}", share, f"{part.flops_per_token:,}", size(part.state_bytes), activations)
    return (part.name, part.kind, str(part.copies), *numbers)


def _totals(model: "ModelConfig", found: "Count", batch: str) -> list[tuple[str, str]]:
    weights = ", ".join(f"{size(found.params * each)} in {name}" for name, each in _BYTES.items())
    training = found.flops_per_token
    return [
        ("parameters", f"{found.params:,}"),
        ("  without embeddings", f"{found.params_non_embedding:,}"),
        ("  active for a token", f"{found.active_params:,}"),
        ("weights", weights),
        ("vocabulary", f"{model.require_vocab_size():,} tokens"),
        ("context", f"{found.context:,} tokens"),
        ("FLOPs a token", f"{training:,} in training, {training // 3:,} forward (the column)"),
        ("decode state", f"{size(found.state_bytes)} a sequence in fp32"),
        ("activations", f"kept for the backward pass of {batch}"),
    ]


def _facts(model: "ModelConfig", found: "Count", precision: "Name", training: "list[TrainingMemory]") -> dict[str, Any]:
    return {
        **asdict(found),
        "vocab_size": model.vocab_size,
        "forward_flops_per_token": found.flops_per_token // 3,
        "weight_bytes": {name: found.params * each for name, each in _BYTES.items()},
        "activation_precision": precision,
        "training_memory": [each.to_dict() for each in training],
    }
