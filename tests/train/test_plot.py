"""Several runs in one chart: as a page, as a picture, and what is refused."""

import json
import re
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from gptwright.errors import CheckpointError, GptwrightError
from gptwright.train.report.overlay import overlay
from gptwright.train.report.plot import write_plot

from .test_report import parsed


def run_folder(folder: Path, *, val: bool = True, loss: float = 2.0, tokens: bool = True) -> Path:
    folder.mkdir(parents=True)
    rows = []
    for step in range(1, 41):
        at = {"step": step, **({"tokens": step * 64, "train_seconds": step / 4} if tokens else {})}
        rows.append({**at, "loss": loss + 1 / step, "lr": 1e-3, "zero": 0.0})
        if val and step % 10 == 0:
            rows.append({**at, "val_loss": loss + 0.1 * step})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def drawn(path: Path) -> str:
    return re.sub(r"<(style|script)\b.*?</\1>", "", path.read_text("utf-8"), flags=re.DOTALL)


def test_each_run_has_a_colour_and_a_line_of_the_legend(tmp_path):
    runs = [run_folder(tmp_path / name, loss=n + 1.0) for n, name in enumerate(("one", "two"))]
    path = write_plot(overlay(runs), tmp_path / "plots.html")
    page = path.read_text("utf-8")
    assert parsed(page).links == ["data:,"]
    assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org/2000/svg)", page)
    for name, colour, result in (("one", "k0", "val 5.0000, best 2.0000"), ("two", "k1", "val 6.0000, best 3.0000")):
        assert f'swatch {colour} d0" aria-hidden="true"></span><b>{name}</b> <span class="result">{result}' in page
        assert len(re.findall(rf'class="line slim {colour} d0" d="M', page)) == 3 * 2  # axes, linear and log
        assert len(re.findall(rf'class="marks {colour} d0" d="M', page)) == 3 * 2
    points = json.loads(re.search(r'id="points">(.*?)</script>', page, re.DOTALL)[1], parse_constant=pytest.fail)
    assert sorted(points) == ["train0", "train1", "val0", "val1"]
    assert points["val1"]["val_loss"] == [3.0, 4.0, 5.0, 6.0]


def test_the_seventh_run_is_dashed_and_the_25th_refused(tmp_path):
    runs = [run_folder(tmp_path / f"r{n:02}") for n in range(7)]
    page = drawn(write_plot(overlay(runs), tmp_path / "plots.html"))
    assert 'class="line slim k0 d1"' in page
    with pytest.raises(GptwrightError, match="25 runs are too many for one chart, which can tell 24 apart"):
        overlay(runs * 3 + runs[:4])


def test_axis_and_scale_are_those_asked_for(tmp_path):
    chart = overlay([run_folder(tmp_path / "a"), run_folder(tmp_path / "b")])
    page = drawn(write_plot(chart, tmp_path / "plots.html", x_name="tokens", log=True))
    assert 'id="by-tokens" checked' in page
    assert 'id="log" checked' in page
    picture = write_plot(chart, tmp_path / "plots.svg", x_name="tokens", log=True).read_text("utf-8")
    assert 'data-log="xy"' in picture
    assert "Tokens, log scale" in picture


def test_names_are_as_long_as_they_must_be(tmp_path):
    runs = [run_folder(tmp_path / "x" / "run"), run_folder(tmp_path / "y" / "run")]
    assert [each.name for each in overlay(runs).runs] == ["x/run", "y/run"]
    assert [each.name for each in overlay([runs[0], runs[0]]).runs] == ["run (1)", "run (2)"]


def test_any_column_can_be_drawn(tmp_path):
    chart = overlay([run_folder(tmp_path / "a")], "lr")
    assert chart.legend() == [("k0 d0", "a", "0.001")]
    assert re.search(r'class="raw k0 d0" d="M', drawn(write_plot(chart, tmp_path / "lr.html")))
    with pytest.raises(
        GptwrightError, match=r"none of these runs has logged 'los'; did you mean 'loss'\? \(logged: .*lr"
    ):
        overlay([tmp_path / "a"], "los")


def test_a_picture_is_one_sound_file_with_its_own_colours(tmp_path):
    path = write_plot(overlay([run_folder(tmp_path / "a<b> & c")]), tmp_path / "plots.svg")
    tree = ET.fromstring(path.read_text("utf-8"))
    text = "".join(tree.itertext())
    assert "a<b> & c" in text
    assert "val 6.0000, best 3.0000" in text
    assert "prefers-color-scheme:dark" in text
    assert "var(" not in text
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", path.read_text("utf-8"))


def test_names_are_escaped_in_pages(tmp_path):
    folder = run_folder(tmp_path / "<script>alert(1)<")
    tags = parsed(write_plot(overlay([folder]), tmp_path / "plots.html").read_text("utf-8"))
    assert not any("alert" in script for script in tags.scripts[1:])
    assert len(tags.scripts) == 2


@pytest.mark.skipif(
    not any(map(shutil.which, ("rsvg-convert", "inkscape", "chromium", "google-chrome"))), reason="no renderer here"
)
def test_a_png_is_made_where_a_program_can(tmp_path):
    path = write_plot(overlay([run_folder(tmp_path / "a")]), tmp_path / "plots.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size > 10_000


def test_without_a_renderer_a_png_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(GptwrightError, match=r"a PNG needs one of the programs .*; write --out plots.svg"):
        write_plot(overlay([run_folder(tmp_path / "a")]), tmp_path / "plots.png")


def test_a_renderer_that_fails_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "rsvg-convert").write_text("#!/bin/sh\nexit 3\n")
    (tmp_path / "rsvg-convert").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(GptwrightError, match=r"rsvg-convert could not make the PNG \(.*status 3"):
        write_plot(overlay([run_folder(tmp_path / "a")]), tmp_path / "plots.png")


def test_what_cannot_be_drawn_is_refused(tmp_path):
    run = run_folder(tmp_path / "a", tokens=False)
    chart = overlay([run])
    with pytest.raises(GptwrightError, match=r"must end in .html, .svg, .png"):
        write_plot(chart, tmp_path / "plots.pdf")
    with pytest.raises(GptwrightError, match="none of these runs moves along 'tokens'; draw it over step"):
        write_plot(chart, tmp_path / "plots.html", x_name="tokens")
    with pytest.raises(GptwrightError, match="'zero' has no positive values to show on a log scale"):
        write_plot(overlay([run], "zero"), tmp_path / "plots.html", log=True)
    with pytest.raises(GptwrightError, match=r"cannot write '.*': .*; name another with --out"):
        write_plot(chart, tmp_path / "absent" / "plots.html")
    with pytest.raises(CheckpointError, match="there is no run folder"):
        overlay([tmp_path / "absent"])
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "config.yaml").write_text("model: {}\n")
    with pytest.raises(GptwrightError, match="none of these runs has logged a loss yet"):
        overlay([tmp_path / "new"])
