"""Run `gptwright demo` and put what it prints, and a picture of its report, where README.md and the docs show them.

Run it: python docs/make_readme_assets.py [--steps N] [--skip-picture]

The picture needs a chromium, chrome or edge on the path; the text needs nothing more than gptwright.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "assets" / "report.png"
SIZE = (1200, 1000)
HEAD, TAIL = 14, 46
"""Lines kept of the beginning and of the end of what the demo prints."""
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome", "msedge")


def main() -> None:
    """Run the demo in an empty folder and write both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, help="optimizer steps, instead of the demo's own")
    parser.add_argument("--skip-picture", action="store_true", help="write the text only")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        printed = demo(Path(folder), asked.steps)
        write_output(printed)
        if not asked.skip_picture:
            photograph(Path(folder) / "runs" / "demo" / "report.html", PICTURE)


def demo(folder: Path, steps: int | None) -> str:
    """Return what the demo prints when its output is not a terminal, run in ``folder``."""
    command = [sys.executable, "-m", "gptwright", "demo", *(["--steps", str(steps)] if steps else [])]
    environment = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1"}
    done = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.stdout)
    return done.stdout


def write_output(printed: str) -> None:
    """Put the beginning and the end of ``printed`` between README.md's demo marks."""
    lines = [line.rstrip() for line in printed.replace("```", "'''").strip().splitlines()]
    if len(lines) > HEAD + TAIL:
        lines = [*lines[:HEAD], "...", *lines[-TAIL:]]
    block = "\n".join(["<!-- demo: begin -->", "```text", "$ gptwright demo", *lines, "```", "<!-- demo: end -->"])
    path = ROOT / "README.md"
    marked = re.compile(r"<!-- demo: begin -->.*<!-- demo: end -->", re.DOTALL)
    path.write_text(marked.sub(lambda _: block, path.read_text("utf-8")), "utf-8")


def photograph(page: Path, picture: Path) -> None:
    """Write a PNG of the top of an HTML page."""
    browser = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if browser is None:
        sys.exit(f"no browser found to take the picture with (looked for {', '.join(_BROWSERS)}); use --skip-picture")
    picture.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as profile:
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
        command += [f"--user-data-dir={profile}", f"--window-size={SIZE[0]},{SIZE[1]}", f"--screenshot={picture}"]
        subprocess.run([*command, page.as_uri()], check=True, timeout=120, capture_output=True)


if __name__ == "__main__":
    main()
