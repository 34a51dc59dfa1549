"""The display, in real processes: on a terminal, in a pipe, quiet, interrupted."""

import os
import pty
import re
import select
import subprocess
import sys
import textwrap
import time

import pytest

from gptwright.train.display import Display, sparkline, visible

LOOP = """
import os, signal, sys, time
from gptwright.train.display import Display

with Display(40, start_step={start}, enabled={enabled}) as display:
    display.message("prepared")
    sys.stdout.write("inside\\n")
    sys.stdout.flush()
    display.phase("compiling")
    for step in range({start} + 1, 41):
        if step % 10 == 0:
            time.sleep({pause})
            display.log({{"step": step, "loss": 4.0 - step / 20, "lr": 1e-3, "tokens_per_second": 45212.0,
                          "peak_fraction": 0.47, "train_seconds": 1.0}})
        if step == 20:
            display.evaluated({{"step": 20, "val_loss": 3.25, "val_bits_per_byte": 4.6889, "train_seconds": 2.0}})
            display.sample(20, "Hello \\x1b[31m[bold]you\\nsecond line")
            display.warning("a checkpoint was skipped")
            {at_20}
sys.stdout.write("result\\n")
"""


def script(*, start=0, enabled=None, pause=0.0, at_20="pass"):
    return textwrap.dedent(LOOP.format(start=start, enabled=enabled, pause=pause, at_20=at_20))


def piped(**options):
    return subprocess.run(
        [sys.executable, "-c", script(**options)], capture_output=True, text=True, timeout=60, check=False
    )


def on_a_terminal(*, term="xterm-256color", **options):
    """Run with stderr on a pseudo-terminal of 80 columns; return (exit code, stdout, what the terminal got)."""
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    env = os.environ | {"TERM": term, "COLUMNS": "80", "LINES": "24"}
    env.pop("NO_COLOR", None)
    process = subprocess.Popen(
        [sys.executable, "-c", script(**options)], stdout=subprocess.PIPE, stderr=theirs, stdin=theirs, env=env
    )
    os.close(theirs)
    shown, deadline = b"", time.monotonic() + 60
    while time.monotonic() < deadline:
        ready, _, _ = select.select([ours], [], [], 0.1)
        try:
            piece = os.read(ours, 65536) if ready else None
        except OSError:  # the other side is closed
            break
        shown += piece or b""
        if piece == b"" or (piece is None and process.poll() is not None):
            break
    out, _ = process.communicate(timeout=30)
    os.close(ours)
    return process.returncode, out.decode(), shown.decode()


def plain(shown: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)


def test_in_a_pipe_each_line_is_plain_and_stdout_is_left_alone():
    done = piped()
    assert done.returncode == 0
    assert done.stdout == "inside\nresult\n"
    lines = done.stderr.splitlines()
    assert lines[0] == "prepared"
    assert re.fullmatch(r"step 10/40  loss 3.5000  lr 0.001  45.2k tok/s  47% of peak  \d\S* s  .* left", lines[1])
    assert "step 20/40  val loss 3.2500  4.6889 bits/byte  2.0 s trained" in lines
    assert "  │ Hello �[31m[bold]you" in lines
    assert "  │ second line" in lines
    assert "\x1b" not in done.stderr
    assert "\r" not in done.stderr
    assert len([line for line in lines if " loss " in line and " val " not in line]) == 4
    assert "left" not in lines[-1]


def test_quiet_shows_warnings_only():
    done = piped(enabled=False)
    assert (done.stdout, done.stderr) == ("inside\nresult\n", "a checkpoint was skipped\n")


def test_a_terminal_gets_a_bar_below_what_stays():
    code, out, shown = on_a_terminal(pause=0.3)
    assert code == 0
    assert out == "inside\nresult\n"
    text = plain(shown)
    for piece in ("compiling", "━", "step 40/40", "loss 2.0000", "val 3.2500", "45.2k tok/s  47% of peak", "left"):
        assert piece in text
    assert text.count("val loss 3.2500  4.6889 bits/byte") == 1
    assert "[bold]you" in text
    assert "\x1b[31m[bold]" not in shown
    assert max(len(line) for line in re.split(r"[\r\n]+", text)) <= 80


@pytest.mark.parametrize(
    ("ending", "code"),
    [("pass", 0), ("raise RuntimeError('boom')", 1), ("os.kill(os.getpid(), signal.SIGINT); time.sleep(5)", -2)],
)
def test_the_terminal_is_left_as_it_was(ending, code):
    found, _, shown = on_a_terminal(pause=0.1, at_20=ending)
    assert found == code
    switches = re.findall(r"\x1b\[\?25([hl])", shown)
    assert switches[-1] == "h"
    assert "\x1b[?1049h" not in shown
    assert plain(shown).endswith("\n")
    if code == 1:
        assert "RuntimeError: boom" in shown


def test_even_a_killed_run_leaves_the_cursor():
    _, _, shown = on_a_terminal(pause=0.1, at_20="time.sleep(0.5); os.kill(os.getpid(), signal.SIGKILL)")
    assert re.findall(r"\x1b\[\?25([hl])", shown)[-1] == "h"


def test_a_dumb_terminal_gets_plain_lines():
    _, _, shown = on_a_terminal(term="dumb")
    assert "step 10/40  loss 3.5000" in shown
    assert "\x1b" not in shown


def test_a_resumed_run_starts_where_it_was():
    done = piped(start=25)
    assert [line[:10] for line in done.stderr.splitlines()[1:]] == ["step 30/40", "step 40/40"]


def test_the_clock_counts_from_where_a_run_goes_on():
    display = Display(2000, enabled=False)
    display.step = 1000
    time.sleep(0.2)
    display.log({"step": 1010, "loss": 1.0})
    assert 15 < display._pace.left() < 60


def test_a_reader_that_leaves_does_not_end_the_run():
    process = subprocess.Popen(
        [sys.executable, "-c", script(pause=0.2)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stderr
    assert process.stderr.readline() == "prepared\n"
    process.stderr.close()
    assert process.stdout.read() == "inside\nresult\n"
    process.stdout.close()
    process.wait(30)


def test_a_sparkline_falls_with_the_loss():
    assert sparkline([4, 3, 2, 1], 16) == "█▆▃▁"
    assert len(sparkline([1.0 / n for n in range(1, 500)], 16)) == 16
    assert sparkline([2.0], 16) == ""
    assert sparkline([2.0, 2.0], 16) == "▁▁"


def test_control_characters_are_shown_and_not_obeyed():
    assert visible("a\x1b]0;title\x07b\tc\nd\r\ne\x9bf") == "a�]0;title�b\tc\nd\ne�f"
