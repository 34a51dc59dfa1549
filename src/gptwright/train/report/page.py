"""Write a run's `report.html`: one file that needs no network, no script and no font to be read."""

import base64
import hashlib
import re
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup, escape

from gptwright import __version__
from gptwright.data.place import write_file
from gptwright.errors import GptwrightError
from gptwright.train.report.figures import commands, headline, key_figures, notes
from gptwright.train.report.lines import Columns
from gptwright.train.report.read import Run, Sample, read_run
from gptwright.train.report.state import state
from gptwright.train.report.views import AXES, few, hover_points, loss_panel, small_panels, usable_axes
from gptwright.train.report.words import clock, compact, fixed

HERE = Path(__file__).parent
REFRESH_SECONDS = 15
MAX_SAMPLES, MAX_SAMPLE_LENGTH, MAX_TABLE_ROWS = 60, 4000, 40
_YAML_KEY = re.compile(r"^(\s*(?:- )*)([\w.\-]+)(:)(?=\s|$)", re.MULTILINE)


@cache
def templates(name: str) -> tuple[Template, Markup, Markup, str]:
    """Return a template, the style sheet, the script and its hash: read once, for a page is written many times."""
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (HERE / "script.js").read_text("utf-8")
    style = Markup((HERE / "style.css").read_text("utf-8"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template(name), style, Markup(script), digest


def write_report(run_folder: Path, *, title: str | None = None) -> Path:
    """Write ``run_folder/report.html`` from what the folder holds, and return its path.

    Missing files, a torn last line and values that are not finite are left out, and said.

    Raises:
        CheckpointError: the folder does not exist or holds no run.
        GptwrightError: the page cannot be written.
    """
    run = read_run(Path(run_folder))
    page = render(run, title or run.folder.resolve().name)
    target = run.folder / "report.html"
    try:
        write_file(target, page.encode(), lasting=False)  # a reader who reloads never sees half a page
    except OSError as error:
        reason = f"{error.strerror}; check its rights and the free space"
        raise GptwrightError(f"cannot write '{target}': {reason}") from None
    return target


def render(run: Run, title: str) -> str:
    """Return the page as text."""
    template, style, script, digest = templates("template.html.j2")
    found = state(run)
    samples = few(run.samples, MAX_SAMPLES)
    return template.render(
        title=title,
        status=found.words + (f", as of {datetime.now(UTC):%H:%M} UTC" if found.name == "running" else ""),
        state=found.name,
        refresh=REFRESH_SECONDS if found.name == "running" else 0,
        headline=headline(run),
        figures=key_figures(run),
        axes=[(name, AXES[name][0]) for name in usable_axes(run)],
        loss=loss_panel(run),
        panels=small_panels(run),
        points=hover_points(run),
        evaluations=evaluation_rows(run.val),
        samples=[(sample_heading(sample), clip(sample.text)) for sample in samples],
        settings=coloured_yaml(run.config_text),
        commands=commands(run),
        notes=notes(run),
        style=style,
        script=script,
        script_hash=digest,
        version=__version__,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def evaluation_rows(val: Columns) -> list[list[str]]:
    """Return the table of evaluations: step, tokens, time, loss, bits per byte."""
    count = val["step"].size if "step" in val else 0
    nothing = np.full(count, np.nan)
    writers = {"step": lambda v: f"{int(v):,}", "tokens": compact, "train_seconds": clock}
    names = [*AXES, "val_loss", "val_bits_per_byte"]
    return [
        [writers.get(name, fixed)(float(val.get(name, nothing)[n])) for name in names]
        for n in few(range(count), MAX_TABLE_ROWS)
    ]


def sample_heading(sample: Sample) -> str:
    """Return when a sample was written."""
    tokens = f", after {compact(sample.tokens)} tokens" if sample.tokens is not None else ""
    return f"step {sample.step:,}{tokens}"


def clip(text: str) -> str:
    """Return ``text`` cut to a length that keeps the page small."""
    return text if len(text) <= MAX_SAMPLE_LENGTH else text[:MAX_SAMPLE_LENGTH] + " […]"


def coloured_yaml(text: str) -> Markup:
    """Return settings as escaped HTML with each key marked."""
    return Markup(_YAML_KEY.sub(r'\1<span class="key">\2</span>\3', str(escape(text))))
