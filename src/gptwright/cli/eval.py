"""`gptwright eval RUN`: how well a trained GPT predicts text that it has not learnt from."""

from pathlib import Path
from typing import Annotated

import typer

from gptwright.cli.output import JsonOption, QuietOption, TrustOption, data_progress, print_facts, print_json
from gptwright.errors import GptwrightError


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or one of its checkpoints.")],
    data: Annotated[
        str | None, typer.Option(metavar="SOURCE", help="Another source of text, for example other.txt.")
    ] = None,
    split: Annotated[str, typer.Option(metavar="val|train", help="train shows how much was memorised.")] = "val",
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    trust_code: TrustOption = False,
) -> None:
    """Measure a trained GPT on the whole validation split of its data."""
    if split not in ("val", "train"):
        raise GptwrightError(f"--split is '{split}' and must be val or train")
    from gptwright.evaluate.likelihood import evaluate
    from gptwright.train.load import load

    model = load(run, trust_code=trust_code)
    with data_progress(quiet=quiet) as progress:
        score = evaluate(model, data={"source": data} if data else None, split=split, progress=progress)
    if as_json:
        print_json(score.to_dict())
        return
    source = data or model.settings.data.described
    print_facts(
        [
            ("measured", f"{run} on the {split} split of {source}"),
            ("loss", f"{score.loss:.4f} nats a token"),
            ("bits per byte", f"{score.bits_per_byte:.4f}"),
            ("perplexity", f"{score.perplexity:,.2f}"),
            ("tokens", f"{score.tokens:,}"),
        ]
    )
