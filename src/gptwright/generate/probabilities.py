"""Pictures of how likely each token was: colours on a terminal, and a page with the alternatives at each step."""

import base64
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from rich.console import Console
from rich.text import Text

from gptwright import __version__
from gptwright.data.place import write_file
from gptwright.errors import GptwrightError
from gptwright.generate.completion import Completion, Token

HERE = Path(__file__).parent
LEVELS = ((0.01, "under 1 %"), (0.05, "1 to 5 %"), (0.2, "5 to 20 %"), (0.5, "20 to 50 %"), (0.8, "50 to 80 %"))
LAST = "80 % and more"
"""Steps of probability: the bound that each stays below, and its name; the last has no bound."""
_COLOURS = ("#d7301f", "#fc8d59", "#fdcc8a", "#fee8b5", "#c9e3f5", "#9cc9ea")
"""A colour for each step, told apart by the colour-blind too: red is surprising, blue is expected."""
_SIXTEEN = ("bright_magenta", "bright_red", "yellow", "bright_yellow", "bright_cyan", "bright_blue")
"""The same for a terminal of 16 colours."""
_SIGNS = {"\n": "⏎", "\t": "⇥", "\r": "␍", " ": "·"}


def level(probability: float) -> int:
    """Return the step of a probability, from 0 (least likely) on."""
    return sum(probability >= bound for bound, _ in LEVELS)


def print_probabilities(found: Sequence[Completion], console: Console | None = None) -> None:
    """Print texts with each new token on the colour of its probability; a table where there are no colours.

    The completions must hold log-probabilities.
    """
    console = console or Console(highlight=False, markup=False)
    colours = _SIXTEEN if console.color_system == "standard" else _COLOURS
    for place, each in enumerate(found):
        if place:
            console.print("---")
        if console.is_terminal and console.color_system:
            console.print(coloured(each, colours), soft_wrap=True)
        else:
            for line in _table(each):
                console.print(line, soft_wrap=True)
    if console.is_terminal and console.color_system:
        console.print(_legend(colours), soft_wrap=True)


def coloured(found: Completion, colours: Sequence[str] = _COLOURS) -> Text:
    """Return the prompt as it is and each new token on a colour."""
    text = Text().append(_printable(found.prompt), style="dim")
    for token in found.tokens or ():
        words = "⏎\n" if token.text == "\n" else _printable(token.text) or "∅"
        text.append(words, style=f"black on {colours[level(math.exp(token.logprob))]}")
    return text


def write_page(path: Path, found: Sequence[Completion], *, settings: Mapping[str, Any] | None = None) -> None:
    """Write one HTML file that shows ``found`` and asks the network for nothing.

    Raises:
        GptwrightError: it cannot be written.
    """
    try:
        write_file(path, render(found, settings or {}).encode(errors="replace"), lasting=False)
    except OSError as error:
        raise GptwrightError(f"cannot write '{path}': {error.strerror}; check its folder and rights") from None


def render(found: Sequence[Completion], settings: Mapping[str, Any]) -> str:
    """Return the page as text."""
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style, script = ((HERE / f"probabilities.{end}").read_text("utf-8") for end in ("css", "js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    texts = [_told(each) for each in found]
    return environment.get_template("probabilities.html.j2").render(
        style=Markup(style),
        script=Markup(script),
        script_hash=digest,
        texts=texts,
        steps=[text["steps"] for text in texts],
        levels=[*(name for _, name in LEVELS), LAST],
        settings={name: _value(value) for name, value in settings.items()},
        version=__version__,
    )


def shown(token: Token) -> str:
    """Return the words of a token for a reader: white space as signs, other bytes by their numbers."""
    try:
        text = token.raw.decode("utf-8")
    except UnicodeDecodeError:
        return " ".join(f"{byte:02X}" for byte in token.raw)
    return "".join(_SIGNS.get(sign) or (sign if sign.isprintable() else f"U+{ord(sign):04X}") for sign in text) or "∅"


def _told(found: Completion) -> dict[str, Any]:
    """Return what the page says about one continuation."""
    tokens = found.tokens or []
    bits = [-token.logprob / math.log(2) for token in tokens]
    mean = sum(bits) / len(bits) if bits else 0.0
    return {
        "prompt": found.prompt,
        "tokens": [_drawn(token) for token in tokens],
        "steps": [_step(token) for token in tokens],
        "bars": [(min(100.0, 100 * each / max(8.0, max(bits))), level(2**-each)) for each in bits],
        "figures": [
            ("new tokens", f"{len(tokens):,}"),
            ("ended by", found.finish_reason),
            ("mean surprise", f"{mean:.2f} bits"),
            ("perplexity", f"{2**mean:.3g}" if bits else "–"),
            ("likeliest taken", _share(tokens)),
        ],
    }


def _drawn(token: Token) -> dict[str, Any]:
    """Return how a token stands in the text: what cannot be seen as it is becomes a sign."""
    plain = bool(token.raw) and all(sign.isprintable() for sign in token.text.replace("\n", "")) and _whole(token)
    words = token.text if plain else shown(token)
    return {
        "words": words.replace("\n", "") if plain else words,
        "breaks": token.text.count("\n") if plain else 0,
        "odd": not plain,
        "level": level(math.exp(token.logprob)),
        "says": f"{shown(token)}: {percent(token.logprob)}",
    }


def _step(token: Token) -> dict[str, Any]:
    """Return what is known of a step, with the token itself among the alternatives."""
    rows = list(token.top)
    if all(each.id != token.id for each in rows):
        rows.append(token)
    return {
        "says": shown(token),
        "id": token.id,
        "probability": percent(token.logprob),
        "bits": f"{-token.logprob / math.log(2):.2f}",
        "others": [
            [shown(each), percent(each.logprob), round(100 * math.exp(each.logprob), 2), int(each.id == token.id)]
            for each in rows
        ],
    }


def percent(logprob: float) -> str:
    """Return a probability as people read it."""
    share = 100 * math.exp(logprob)
    return f"{share:.1f} %" if share >= 0.1 else f"{share:.2g} %"


def _share(tokens: list[Token]) -> str:
    known = [token for token in tokens if token.top]
    return f"{sum(token.id == token.top[0].id for token in known) / len(known):.0%}" if known else "–"


def _whole(token: Token) -> bool:
    return token.raw == token.text.encode()


def _value(value: Any) -> str:
    return ", ".join(repr(each) for each in value) if isinstance(value, list | tuple) else str(value)


def _printable(text: str) -> str:
    """Return ``text`` without what would steer a terminal."""
    return "".join(sign if sign.isprintable() or sign == "\n" else "�" for sign in text)


def _table(found: Completion) -> Iterator[str]:
    """Yield a line a token: itself, its probability, the alternatives."""
    yield f"{'token':<16} {'p':>8}  alternatives"
    for token in found.tokens or ():
        others = "  ".join(f"{shown(each)} {percent(each.logprob)}" for each in token.top)
        yield f"{shown(token):<16} {percent(token.logprob):>8}  {others}".rstrip()


def _legend(colours: Sequence[str]) -> Text:
    names = [*(name for _, name in LEVELS), LAST]
    parts = [Text(f" {name} ", style=f"black on {colour}") for name, colour in zip(names, colours, strict=True)]
    return Text(" ").join([Text("probability:", style="dim"), *parts])
