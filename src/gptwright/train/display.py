"""What a person sees while a run goes on: a live bar on a terminal, plain lines elsewhere.

Everything goes to stderr; stdout belongs to results.
"""

import itertools
import math
import re
import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gptwright.train.pace import Pace, Workload
from gptwright.train.report.words import clock, compact, number, short

_BLOCKS = "▁▂▃▄▅▆▇█"
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Display:
    """Shows the progress of a run of ``total_steps``; used with ``with``, by one process of the run.

    ``enabled``: None is a live bar where stderr is a terminal and plain lines elsewhere; True is a live bar
    anyway; False is quiet: only `warning` is shown. ``work`` says what the run has to do, for the time that is
    left; without it, steps count alike. A display never ends a run: where stderr cannot be written to, it falls
    silent.
    """

    def __init__(
        self, total_steps: int, *, start_step: int = 0, enabled: bool | None = None, work: Workload | None = None
    ) -> None:
        self.total_steps = total_steps
        self.work = work or Workload(total_steps)
        self._step = start_step
        self._quiet = enabled is False
        self._forced = enabled is True
        self._live: Live | None = None
        self._phase = ""
        self._pace = Pace(self.work, start_step)
        self._latest: dict[str, float] = {}
        self._losses: list[float] = []

    def __enter__(self) -> Self:
        self.step = self._step  # the clock starts here
        forced = self._forced or None
        console = Console(stderr=True, force_terminal=forced, force_jupyter=False, highlight=False, markup=False)
        if not self._quiet and console.is_terminal and not console.is_dumb_terminal:
            self._live = Live(
                console=console,
                get_renderable=self._picture,
                refresh_per_second=4,
                redirect_stdout=False,  # stdout belongs to results, piped or not
            )
            self._live.start()
            console.show_cursor(True)  # rich hides it; a run killed by force could never bring it back
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    @property
    def step(self) -> int:
        """The step shown; setting it says where a run begins or goes on, and restarts the clock."""
        return self._step

    @step.setter
    def step(self, step: int) -> None:
        self._step = step
        self._pace = Pace(self.work, step)

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Show one training line: `step`, `loss`, `lr`, `tokens_per_second`, `peak_fraction` if given."""
        self._move(metrics)
        loss = self._latest.get("loss", math.nan)
        if "loss" in metrics and math.isfinite(loss):
            self._losses.append(loss)
        if self._live is None:
            self._line(f"{self._where()}  {self._train_words()}  {self._time_words()}".rstrip())

    def evaluated(self, metrics: Mapping[str, Any]) -> None:
        """Show one evaluation: `step`, `val_loss`, `val_bits_per_byte`; it stays above a live bar."""
        self._move(metrics, "evaluation")
        words = [f"val loss {number(metrics.get('val_loss')):.4f}"]
        bits = number(metrics.get("val_bits_per_byte"))
        words += [f"{bits:.4f} bits/byte"] if math.isfinite(bits) else []
        words += [f"{clock(number(metrics['train_seconds']))} trained"] if "train_seconds" in metrics else []
        self._line(f"{self._where()}  {'  '.join(words)}", style="bold")

    def sample(self, step: int, text: str) -> None:
        """Show what the model wrote at ``step``; control characters are made visible, not obeyed."""
        self._pace.note(step, event="sample")
        self._line(f"sample at step {step:,}", style="cyan")
        for line in visible(text).splitlines():
            self._line(f"  │ {line}", style="dim")

    def saved(self, step: int) -> None:
        """Take note that a checkpoint has cost what time it costs; nothing is shown."""
        self._pace.note(step, event="save")

    def message(self, text: str) -> None:
        """Show one line of news, for example that a checkpoint was saved."""
        self._line(visible(text))

    def warning(self, text: str) -> None:
        """Show one line that matters even to who asked for quiet."""
        self._line(visible(text), style="yellow", always=True)

    def phase(self, name: str = "") -> None:
        """Say on the live bar what goes on until the next line: `compiling`, `evaluating`, `saving`."""
        self._phase = visible(name)

    def _move(self, metrics: Mapping[str, Any], event: str = "") -> None:
        self._latest.update({name: number(value) for name, value in metrics.items()})
        self._phase = ""
        if "step" in metrics:
            self._step = int(metrics["step"])
            self._pace.note(self.step, number(metrics.get("train_seconds")), event)

    def _picture(self) -> RenderableType:
        """Return the two lines at the bottom of a terminal; rich asks for them four times a second."""
        bar = Table.grid(padding=(0, 1), expand=True)
        bar.add_column(no_wrap=True)
        bar.add_column(ratio=1)
        bar.add_column(no_wrap=True)
        length = ProgressBar(total=self.total_steps, completed=self.step, style="bright_black")
        bar.add_row(Text(self._where(), style="bold"), length, Text(self._time_words(), style="cyan"))
        val = self._latest.get("val_loss", math.nan)
        words = [
            (self._phase, "yellow"),
            (sparkline(self._losses, 16), "blue"),
            (f"loss {self._latest['loss']:.4f}" if "loss" in self._latest else "", "bold blue"),
            (f"val {val:.4f}" if math.isfinite(val) else "", "bold magenta"),
            (self._speed_words(), ""),
        ]
        line = Text("  ", no_wrap=True, overflow="ellipsis").join(Text(*pair) for pair in words if pair[0])
        return Group(bar, line if self._latest or self._phase else Text("starting", style="yellow"))

    def _where(self) -> str:
        width = len(f"{self.total_steps:,}")
        return f"step {self.step:>{width},}/{self.total_steps:,}"

    def _train_words(self) -> str:
        words = [f"loss {self._latest.get('loss', math.nan):.4f}"]
        words += [f"lr {short(self._latest['lr'])}"] if "lr" in self._latest else []
        return "  ".join([*words, self._speed_words()]).rstrip()

    def _speed_words(self) -> str:
        speed, peak = (self._latest.get(name, math.nan) for name in ("tokens_per_second", "peak_fraction"))
        words = [f"{compact(speed)} tok/s"] if math.isfinite(speed) else []
        words += [f"{100 * peak:.0f}% of peak"] if math.isfinite(peak) else []
        return "  ".join(words)

    def _time_words(self) -> str:
        return f"{clock(self._pace.elapsed())}  {self._left_words()}".rstrip()

    def _left_words(self) -> str:
        left = self._pace.left()
        return f"{clock(left)} left" if math.isfinite(left) and self.step < self.total_steps else ""

    def _line(self, text: str, *, style: str = "", always: bool = False) -> None:
        if self._quiet and not always:
            return
        try:
            if self._live is not None:
                self._live.console.print(Text(text, style=style), soft_wrap=True)
            else:
                sys.stderr.write(text + "\n")
                sys.stderr.flush()
        except (OSError, ValueError):  # the reader of a pipe has gone, or stderr is closed: the run goes on
            self._quiet = True


def sparkline(values: list[float], width: int) -> str:
    """Return the values as at most ``width`` block characters, low to high."""
    if len(values) < 2:
        return ""
    count = min(width, len(values))
    edges = [round(n * len(values) / count) for n in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    low, high = min(means), max(means)
    return "".join(_BLOCKS[round((mean - low) / ((high - low) or 1) * (len(_BLOCKS) - 1))] for mean in means)


def visible(text: str) -> str:
    """Return ``text`` with control characters replaced: a model's bytes must not steer a terminal."""
    return _CONTROL.sub("�", text.replace("\r\n", "\n"))
