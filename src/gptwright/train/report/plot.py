"""Write several runs as one chart: an HTML page, an SVG picture, or a PNG where a program can make one."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from markupsafe import Markup, escape

from gptwright import __version__
from gptwright.data.place import write_file
from gptwright.errors import GptwrightError
from gptwright.train.report.chart import draw
from gptwright.train.report.overlay import Overlay
from gptwright.train.report.page import templates
from gptwright.train.report.panels import COLOURS
from gptwright.train.report.views import AXES, View, hover_rows

WIDTH, HEIGHT, LEFT, TOP, LINE = 1040, 640, 70, 84, 24
"""Of a picture, in pixels: its width, its height without legend, margins, and a line of the legend."""
LIGHT = ("#0072b2", "#c64f00", "#00805e", "#a0458b", "#7a6000", "#55606c")
DARK = ("#56b4e9", "#f0933a", "#2fc497", "#dc8fc5", "#d9bd3c", "#b9c2cc")
"""The colours of style.css: a picture is read by programs that know no CSS variables."""
DASHES = ("", "7 5", "2 4", "9 4 2 4")
PNG_SECONDS = 60


def write_plot(chart: Overlay, target: Path, *, x_name: str = "step", log: bool = False) -> Path:
    """Write ``chart`` as the kind of file that the end of ``target`` says, and return its path.

    Raises:
        GptwrightError: there is no such kind, no such axis, no renderer, or the file cannot be written.
    """
    kinds: dict[str, Callable[[Overlay, str, bool], bytes]] = {".html": _html, ".svg": _svg, ".png": _png}
    make = kinds.get(target.suffix.lower())
    if make is None:
        raise GptwrightError(f"'{target}' must end in {', '.join(kinds)}: that says what is drawn")
    if x_name not in chart.axes():
        raise GptwrightError(f"none of these runs moves along '{x_name}'; draw it over {' or '.join(chart.axes())}")
    if log and not chart.can_log(x_name):
        raise GptwrightError(f"'{chart.title}' has no positive values to show on a log scale; leave --log away")
    content = make(chart, x_name, log)
    try:
        write_file(target, content, lasting=False)
    except OSError as error:
        raise GptwrightError(f"cannot write '{target}': {error.strerror}; name another with --out") from None
    return target


def _html(chart: Overlay, x_name: str, log: bool) -> bytes:
    views = [
        View(f"view by-{name} {scale}{_first(name == x_name, scale)}", _drawn(chart, name, scale))
        for name in chart.axes()
        for scale in ("lin", "log")
        if scale == "lin" or chart.can_log(name)
    ]
    template, style, script, digest = templates("plot.html.j2")
    page = template.render(
        title=" · ".join(each.name for each in chart.runs),
        kind="runs compared",
        heading=chart.title,
        hint=chart.hint(),
        axes=[(name, AXES[name][0]) for name in chart.axes()],
        chosen=x_name,
        log=log,
        can_log=all(map(chart.can_log, chart.axes())),
        views=views,
        legend=chart.legend(),
        points=_points(chart),
        style=style,
        script=script,
        script_hash=digest,
        version=__version__,
    )
    return page.encode()


def _first(chosen: bool, scale: str) -> str:
    """Return the class of what an old browser shows, which cannot follow the switches."""
    return " first" if chosen and scale == "lin" else ""


def _drawn(chart: Overlay, x_name: str, scale: str) -> Markup:
    words = "; ".join(f"{name}: {result}" for _, name, result in chart.legend())
    axes = chart.scales(x_name, log=scale == "log")
    return draw(f"{chart.title} by {AXES[x_name][0].lower()}", words, chart.curves(x_name), axes, x_name=x_name)


def _points(chart: Overlay) -> dict[str, dict[str, list[float | None]]]:
    """Return the numbers that the cross-hair reads out, by run."""
    found = {}
    for each in chart.runs:
        names = [chart.metric] if chart.metric else ["loss", "val_loss"]
        found[each.rows("train")] = hover_rows(each.run.train, [*names, *AXES], smoothed=names)
        found[each.rows("val")] = hover_rows(each.run.val, [*names, *AXES])
    return found


def _svg(chart: Overlay, x_name: str, log: bool) -> bytes:
    high = HEIGHT + LINE * len(chart.runs)
    inner = _drawn(chart, x_name, "log" if log else "lin")
    axis = AXES[x_name][0] + (", log scale" if log else "")
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{high}" viewBox="0 0 {WIDTH} {high}">',
        f"<title>{escape(chart.title)}</title><style>{_style()}</style>",
        f'<rect class="paper" width="{WIDTH}" height="{high}"/>',
        f'<text class="heading" x="{LEFT - 40}" y="40">{escape(chart.title)}</text>',
        f'<text class="tick" x="{LEFT - 40}" y="62">{escape(chart.hint())}</text>',
        f'<svg x="{LEFT}" y="{TOP}" width="{WIDTH - LEFT - 40}" height="{HEIGHT - TOP - 70}" overflow="visible">',
        inner,
        "</svg>",
        f'<text class="tick" x="{WIDTH - 40}" y="{HEIGHT - 24}" text-anchor="end">{escape(axis)}</text>',
        *(_key(n, *entry) for n, entry in enumerate(chart.legend())),
        "</svg>\n",
    ]
    return "".join(parts).encode()


def _key(number: int, classes: str, name: str, result: str) -> str:
    y = HEIGHT + LINE * number
    return (
        f'<g class="curves"><path class="line {classes}" d="M{LEFT} {y - 5}h34"/></g>'
        f'<text class="name" x="{LEFT + 46}" y="{y}">{escape(name)}'
        f'<tspan class="tick" dx="12">{escape(result)}</tspan></text>'
    )


def _style() -> str:
    """Return the style of a picture: light, and dark where the reader prefers it."""
    dashes = "".join(f".d{n}{{stroke-dasharray:{dash}}}" for n, dash in enumerate(DASHES) if dash)
    return (
        "text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif}"
        ".heading{font-size:21px;font-weight:650}.name{font-size:14px}.tick{font-size:12.5px}"
        ".rule{stroke-width:1}.curves path{fill:none;stroke-linejoin:round;stroke-linecap:round;"
        "vector-effect:non-scaling-stroke}.line,.marks{stroke-width:2.4}.slim{stroke-width:1.3;stroke-opacity:.8}"
        f".raw{{stroke-width:1;stroke-opacity:.35}}{dashes}circle{{stroke:none}}"
        f"{_colours('#ffffff', '#16191d', '#5c6570', '#e6e6e0', LIGHT)}"
        f"@media screen and (prefers-color-scheme:dark){{{_colours('#171b21', '#e9ecef', '#9aa5b1', '#2a3038', DARK)}}}"
    )


def _colours(paper: str, ink: str, muted: str, grid: str, curves: tuple[str, ...]) -> str:
    lines = "".join(f".curves .k{n}{{stroke:{curves[n]}}}circle.k{n}{{fill:{curves[n]}}}" for n in range(COLOURS))
    return f".paper{{fill:{paper}}}text{{fill:{ink}}}.tick{{fill:{muted}}}.rule{{stroke:{grid}}}{lines}"


_RENDERERS: dict[str, Callable[[str, str, str], list[str]]] = {
    "rsvg-convert": lambda svg, png, size: ["--zoom=2", "--output", png, svg],
    "inkscape": lambda svg, png, size: [svg, "--export-type=png", "--export-dpi=192", f"--export-filename={png}"],
    **dict.fromkeys(
        ("chromium", "chromium-browser", "google-chrome", "chrome"),
        lambda svg, png, size: [
            *("--headless", "--disable-gpu", "--no-first-run", "--hide-scrollbars", "--force-device-scale-factor=2"),
            *(("--no-sandbox",) if hasattr(os, "geteuid") and os.geteuid() == 0 else ()),  # it refuses root otherwise
            *(f"--user-data-dir={Path(png).parent / 'profile'}", f"--window-size={size}", f"--screenshot={png}"),
            Path(svg).as_uri(),
        ],
    ),
}
"""Programs that make a PNG of an SVG, with their arguments; the first one found does it."""


def _png(chart: Overlay, x_name: str, log: bool) -> bytes:
    program = next((name for name in _RENDERERS if shutil.which(name)), None)
    if program is None:
        raise GptwrightError(
            f"a PNG needs one of the programs {', '.join(_RENDERERS)}, and none is installed; write --out plots.svg, "
            "which every browser shows"
        )
    with tempfile.TemporaryDirectory() as folder:
        svg, png = Path(folder, "plot.svg"), Path(folder, "plot.png")
        svg.write_bytes(_svg(chart, x_name, log))
        size = f"{WIDTH},{HEIGHT + LINE * len(chart.runs)}"
        command = [program, *_RENDERERS[program](str(svg), str(png), size)]
        try:
            subprocess.run(command, capture_output=True, timeout=PNG_SECONDS, check=True)
            return png.read_bytes()
        except (OSError, subprocess.SubprocessError) as error:
            raise GptwrightError(f"{program} could not make the PNG ({error}); write --out plots.svg instead") from None
