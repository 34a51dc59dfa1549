"""The report: read from real run folders, written as one file, safe to open."""

import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from gptwright.errors import CheckpointError, GptwrightError
from gptwright.train.report import lines as metrics_file
from gptwright.train.report import loss_curve_text, write_report
from gptwright.train.report.axis import Axis, nice_ticks, span
from gptwright.train.report.chart import smooth, thin
from gptwright.train.report.lines import read_lines
from gptwright.train.report.read import read_run
from gptwright.train.report.words import clock, compact, short

CONFIG = """\
model:
  d_model: 64
  n_layers: 2
  max_seq_len: 32
  attention: {type: softmax, n_heads: 4}
  norm: rms_norm
optim: {type: muon, lr: 0.02}
train: {steps: 50}
data: {source: "a <b> & c.txt"}
"""


def lines(count: int, every: int = 10) -> list[dict]:
    rows = []
    for n in range(1, count + 1):
        step = n * every
        seen = {"step": step, "tokens": step * 512, "train_seconds": step * 0.1}
        loss = 1.5 + 2.5 * math.exp(-3 * n / count)
        speed = {"lr": 1e-3, "grad_norm": 0.5, "tokens_per_second": 5120.0, "peak_fraction": 0.5}
        rows.append({**seen, "loss": loss, **speed})
        if n % max(1, count // 5) == 0:
            rows.append({**seen, "val_loss": loss + 0.1, "val_bits_per_byte": (loss + 0.1) / math.log(2)})
    return rows


def run_folder(folder: Path, rows: list[dict], *, samples: str = "", tail: str = "") -> Path:
    folder.mkdir(parents=True)
    text = "".join(json.dumps(row) + "\n" for row in rows) + tail
    (folder / "metrics.jsonl").write_text(text, "utf-8")
    (folder / "config.yaml").write_text(CONFIG, "utf-8")
    (folder / "samples.txt").write_text(samples, "utf-8")
    summary = {"run": str(folder), "step": 50, "tokens": 25600, "train_seconds": 5.0, "tokens_per_second": 5120.0}
    summary |= {"val_loss": 1.7245, "val_bits_per_byte": 2.4880, "params": 123456}
    (folder / "summary.json").write_text(json.dumps(summary), "utf-8")
    return folder


class Tags(HTMLParser):
    """Collects what a browser would act on, and checks that every element is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.scripts: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.links += [v for k, v in attrs if k in ("src", "href", "srcset", "action") or k.startswith("on")]
        if tag not in ("meta", "link", "input", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)


def parsed(page: str) -> Tags:
    tags = Tags()
    tags.feed(page)
    tags.close()
    assert tags.open == []
    return tags


def test_a_run_becomes_one_page_with_its_figures(tmp_path):
    samples = "=== step 20 | 10240 tokens ===\nfirst words\n\n=== step 50 | 25600 tokens ===\nlast words\n"
    folder = run_folder(tmp_path / "demo", lines(5), samples=samples)
    path = write_report(folder)
    page = path.read_text("utf-8")
    assert path == folder / "report.html"
    for shown in ("<h1>demo</h1>", "1.7245", "2.4880", "25.6k", "5.0 s", "5.12k", "123k", "finished, 50 steps"):
        assert shown in page
    assert page.index("last words") < page.index("first words")
    assert "gptwright generate" in page
    assert "{type: local, n_heads: 4, window: 8}" in page
    assert [file.name for file in folder.iterdir() if "report" in file.name] == ["report.html"]


def test_the_page_asks_the_network_for_nothing(tmp_path):
    page = write_report(run_folder(tmp_path / "demo", lines(5))).read_text("utf-8")
    assert parsed(page).links == ["data:,"]
    assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org/2000/svg)", page)
    assert "default-src 'none'" in page


def test_what_users_write_is_escaped(tmp_path):
    evil = "</pre><script>alert(1)</script><img src=x onerror=alert(2)>"
    folder = run_folder(tmp_path / "<b>run & co", lines(5), samples=f"=== step 50 | 9 tokens ===\n{evil}\n")
    (folder / "config.yaml").write_text(f"{CONFIG}note: '{evil}'\n", "utf-8")
    page = write_report(folder, title=evil).read_text("utf-8")
    tags = parsed(page)
    assert tags.links == ["data:,"]
    assert len(tags.scripts) == 2
    assert not any("alert" in script for script in tags.scripts)
    assert page.count("&lt;script&gt;alert(1)") >= 4


def test_charts_speak_and_need_no_script(tmp_path):
    page = write_report(run_folder(tmp_path / "demo", lines(20))).read_text("utf-8")
    still = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert still.count('role="img"') == 3 * (2 + 3)  # three axes: loss linear and log, three small charts
    assert "Training loss goes from" in still
    assert re.search(r'class="line loss" d="M[\d. ]+L', still)
    assert "nan" not in re.sub(r"<style.*?</style>", "", still, flags=re.DOTALL).lower()


def test_torn_lines_and_values_that_are_not_finite_are_left_out_and_said(tmp_path):
    rows = lines(30)
    rows[4]["loss"] = float("nan")
    rows[7]["grad_norm"] = float("inf")
    rows[9]["tokens_per_second"] = None
    folder = run_folder(tmp_path / "demo", rows, tail='{"step": 310, "lo')
    page = write_report(folder).read_text("utf-8")
    assert "1 unreadable line of metrics.jsonl" in page
    assert "1 loss value was not finite" in page
    drawn = re.findall(r' (?:d|cx|cy|x1|y1)="([^"]*)"', page)
    assert not any("nan" in text or "inf" in text for text in drawn)
    points = json.loads(re.search(r'id="points">(.*?)</script>', page, re.DOTALL)[1], parse_constant=pytest.fail)
    assert points["train"]["loss"].count(None) == 1


@pytest.mark.parametrize("left", ["config.yaml", "metrics.jsonl", "samples.txt", "summary.json"])
def test_any_one_file_is_enough(tmp_path, left):
    folder = run_folder(tmp_path / "demo", lines(5), samples="=== step 50 | 9 tokens ===\nwords\n")
    for file in folder.iterdir():
        if file.name != left:
            file.unlink()
    parsed(write_report(folder).read_text("utf-8"))


@pytest.mark.parametrize("rows", [[], lines(1), [{"step": 1, "loss": 2.0}], [{"step": 0, "val_loss": float("nan")}]])
def test_hardly_any_numbers_still_make_a_page(tmp_path, rows):
    parsed(write_report(run_folder(tmp_path / "demo", rows)).read_text("utf-8"))


def test_broken_settings_and_summary_do_not_cost_the_page(tmp_path):
    folder = run_folder(tmp_path / "demo", lines(5))
    (folder / "config.yaml").write_text("a: [1, 2\nb: }", "utf-8")
    (folder / "summary.json").write_text("[1]", "utf-8")
    (folder / "samples.txt").write_bytes(b"=== step 5 | 1 tokens ===\n\xff\xfe words")
    page = write_report(folder).read_text("utf-8")
    assert "[1, 2" in page
    assert "� words" in page or "�� words" in page


def test_200_000_points_stay_small_and_keep_a_spike(tmp_path):
    rng = np.random.default_rng(0)
    noise = rng.normal(size=200_000) * 0.1
    rows = [
        {"step": n, "tokens": n * 512, "train_seconds": n * 0.01, "loss": 2 + float(noise[n]), "lr": 1e-3,
         "grad_norm": 1 + float(noise[n]), "tokens_per_second": 5e4}
        for n in range(200_000)
    ]  # fmt: skip
    rows[123_456]["loss"] = 2.9
    path = write_report(run_folder(tmp_path / "demo", rows, samples="=== step 1 | 1 tokens ===\nx\n" * 50))
    assert path.stat().st_size < 2_000_000
    raw = re.search(r'by-step lin.*?class="raw loss" d="(.*?)"', path.read_text("utf-8"), re.DOTALL)[1]
    points = [tuple(map(float, pair.split())) for pair in re.split("[ML]", raw)[1:]]
    assert min(points, key=lambda p: p[1])[0] == pytest.approx(617.3, abs=1)


def test_lines_logged_twice_count_once_and_the_later_wins(tmp_path):
    rows = [{"step": s, "loss": v} for s, v in ((10, 3.0), (20, 9.0), (30, 9.0), (20, 2.0), (30, 1.0))]
    run = read_run(run_folder(tmp_path / "demo", rows))
    assert run.train["step"].tolist() == [10, 20, 30]
    assert run.train["loss"].tolist() == [3.0, 2.0, 1.0]


def test_a_hybrid_stack_names_all_its_parts(tmp_path):
    folder = run_folder(tmp_path / "demo", lines(3))
    blocks = "{near: {attention: {type: local}}, far: {attention: {type: softmax}, feed_forward: moe}}"
    (folder / "config.yaml").write_text(f"model:\n  feed_forward: glu\n  norm: rms_norm\n  blocks: {blocks}\n")
    page = write_report(folder).read_text("utf-8")
    assert "local + softmax attention · moe · rms_norm" in page
    assert "model.norm=layer_norm" in page


def test_a_run_that_stopped_early_says_so(tmp_path):
    folder = run_folder(tmp_path / "demo", lines(3))
    (folder / "summary.json").unlink()
    assert "at step 30 of 50" in write_report(folder).read_text("utf-8")


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"there is no run folder '.*absent'; name the folder"):
        write_report(tmp_path / "absent")
    with pytest.raises(CheckpointError, match="it holds none of config"):
        write_report(tmp_path)


def test_a_page_that_cannot_be_written_is_one_sentence(tmp_path):
    folder = run_folder(tmp_path / "demo", lines(3))
    (folder / "report.html").mkdir()
    with pytest.raises(GptwrightError, match=r"cannot write '.*report.html': .*; check its rights"):
        write_report(folder)
    assert [file.name for file in folder.glob("*report*")] == ["report.html"]


def test_thinning_keeps_the_ends_and_extremes_of_every_column():
    x = np.linspace(0, 1, 50_000)
    y = np.sin(900 * x)
    y[1234], y[4321] = 50, np.nan
    kept = thin(x, y, 100)
    assert kept.size <= 400
    assert {0, 1234, 49_999} <= set(kept.tolist())
    assert 4321 not in kept
    for column in range(100):
        inside = np.flatnonzero((np.minimum(x * 100, 99).astype(int) == column) & np.isfinite(y))
        assert y[inside].min() == y[np.intersect1d(kept, inside)].min()


def test_smoothing_leaves_the_beginning_and_gaps_alone():
    y = np.exp(-np.arange(1000) / 20)
    y[500] = np.nan
    smoothed = smooth(y)
    assert smoothed[0] == y[0]
    assert np.flatnonzero(np.isnan(smoothed)).tolist() == [500]
    assert np.nanmax(np.abs(smoothed - y)) < 0.07


@pytest.mark.parametrize(("lo", "hi"), [(0, 1), (1.3, 4.2), (0, 2_000_000), (1e-5, 3e-4), (-3, 3), (2.0001, 2.0002)])
def test_ticks_are_round_and_inside(lo, hi):
    ticks = nice_ticks(lo, hi, 6)
    assert 4 <= len(ticks) <= 10
    assert all(lo - 1e-9 * abs(hi) <= tick <= hi + 1e-9 * abs(hi) for tick in ticks)
    labels = [label for _, label in Axis(lo, hi).ticks()]
    assert len(set(labels)) == len(labels)


def test_one_far_peak_does_not_flatten_the_rest():
    values = np.full(1000, 2.0) + np.linspace(0, 0.5, 1000)
    values[3] = 1e6
    assert span(values)[1] < 4
    assert span(values[5:])[1] == pytest.approx(2.525, abs=0.01)


def test_numbers_read_well():
    assert [compact(n) for n in (0, 65, 999, 1000, 10_663_296, 999_999, 1.5e9)] == [
        "0", "65", "999", "1k", "10.7M", "1M", "1.5B",
    ]  # fmt: skip
    assert [clock(s) for s in (0.04, 8.42, 59.7, 75, 11_220, 200_000)] == [
        "0.0 s", "8.4 s", "1 min 00 s", "1 min 15 s", "3 h 07 min", "2 d 07 h",
    ]  # fmt: skip
    assert [short(n) for n in (0.001, 2e-5, 1.87345)] == ["0.001", "2e-5", "1.873"]


def test_the_terminal_picture_falls_and_keeps_its_size():
    text = loss_curve_text(lines(40), 60, 10)
    rows = text.splitlines()
    assert len(rows) == 10
    assert max(map(len, rows)) <= 60
    assert "\x1b" not in text
    assert "o" in text
    first, last = (
        [n for n, row in enumerate(rows[:-2]) if any("\u2800" < c <= "\u28ff" for c in part(row))]
        for part in (lambda row: row[7:12], lambda row: row[45:])
    )
    assert max(first) < min(last)
    assert loss_curve_text([], 60, 10) == ""
    assert loss_curve_text([{"step": 1, "loss": float("nan")}], 60, 10) == ""
    assert loss_curve_text([{"step": 5, "loss": 2.0}], 40, 6)


HOLDER = (
    "import fcntl, os, sys\nhandle = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)\nfcntl.flock(handle, fcntl.LOCK_EX)\n"
)
HOLDER += "print('held', flush=True)\nsys.stdin.read()\n"


def test_the_page_of_a_run_that_goes_on_says_so_and_reads_itself_again(tmp_path):
    folder = run_folder(tmp_path / "demo", lines(3))
    (folder / "summary.json").unlink()
    command = [sys.executable, "-c", HOLDER, str(folder / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        page = write_report(folder).read_text("utf-8")
        holder.kill()
    assert "training now, step 30 of 50" in page
    assert '<noscript><meta http-equiv="refresh" content="15"></noscript>' in page
    assert '<body data-refresh="15">' in page
    parsed(page)
    page = write_report(folder).read_text("utf-8")
    assert "interrupted at step 30 of 50" in page
    assert "gptwright train --resume --run" in page
    assert 'http-equiv="refresh"' not in page
    assert "<body>" in page


def test_every_figure_that_a_run_logs_gets_its_chart(tmp_path):
    rows = lines(20)
    for n, row in enumerate(rows):
        if "loss" in row:
            row |= {"epoch": n / 20, "memory_bytes": 3.5e9, "grad_noise_scale": 900.0 + n, "expert_load": 1.5}
            row |= {"expert_load_mean": 1.2, "grad_norm/layers.<0>": 0.25, "grad_norm/lm_head": 0.5, "skipped_steps": 2}
        else:
            row |= {"val_loss/books": 1.5, "val_loss/<code>": 2.5}
    page = write_report(run_folder(tmp_path / "demo", rows)).read_text("utf-8")
    titles = re.findall(r"<h3>([^<]+) <span", page)
    assert titles == [
        "Loss", "Learning rate", "Gradient norm", "Tokens per second", "Gradient noise scale", "Expert load", "Memory",
        "Skipped steps", "Gradient norm by part", "Validation loss by part",
    ]  # fmt: skip
    for legend in ("layers.&lt;0&gt;", "lm_head", "books", "&lt;code&gt;", "busiest layer", "mean of layers"):
        assert f"</span>{legend}</li>" in page
    assert " epochs</dd>" in page
    assert "2 steps were skipped because the loss or the gradient was not finite" in page
    points = json.loads(re.search(r'id="points">(.*?)</script>', page, re.DOTALL)[1])
    assert set(points["train"]["memory_bytes"]) == {3.5}
    assert points["val"]["val_loss/<code>"][0] == 2.5
    parsed(page)


def test_why_a_run_stopped_is_said(tmp_path):
    folder = run_folder(tmp_path / "demo", lines(3))
    summary = json.loads((folder / "summary.json").read_text()) | {"step": 30, "stopped_because": "val loss <rose>"}
    (folder / "summary.json").write_text(json.dumps(summary))
    page = write_report(folder).read_text("utf-8")
    assert "stopped at step 30 of 50: val loss &lt;rose&gt;" in page


def test_a_growing_file_is_read_from_where_it_had_grown_to(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = lines(10)
    written = [json.dumps(row) + "\n" for row in rows]
    for count in range(1, len(written)):
        path.write_text("".join(written[:count]) + written[count][:9])  # the last line is being written
        with path.open("a") as file:  # the same file: only appended to
            file.write(written[count][9:])
        part = read_lines(path)
        whole = [row for row in rows[: count + 1] if "loss" in row]
        assert part.train["step"].tolist() == [row["step"] for row in whole]
    with path.open("a") as file:
        file.write('{"step": 110, "loss": 9.0, "new": 1.0}\n{"step": 120, "lo')
    found = read_lines(path)
    assert (found.train["new"][-1], found.torn) == (1.0, 1)
    assert np.isnan(found.train["new"][:-1]).all()
    with path.open("a") as file:
        file.write('ss": 8.0}\n{"step": 50, "loss": 0.5}\n')  # a step that was logged before: the later line counts
    found = read_lines(path)
    assert (found.torn, found.train["loss"][found.train["step"] == 50].tolist()) == (0, [0.5])
    assert found.train["step"].tolist() == [*range(10, 130, 10)]
    path.write_text("".join(written[:2]))  # written anew, shorter
    assert read_lines(path).train["step"].tolist() == [10, 20]
    path.write_text("".join(written[2:6]))  # written anew, longer
    assert read_lines(path).train["step"].tolist()[0] == 30


def test_only_what_is_new_is_read(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n')
    read_lines(path)
    seen = []
    parse = metrics_file.parse_lines
    monkeypatch.setattr(metrics_file, "parse_lines", lambda text: seen.append(text) or parse(text))
    with path.open("a") as file:
        file.write('{"step": 2, "loss": 1.0}\n')
    assert read_lines(path).train["loss"].tolist() == [2.0, 1.0]
    assert seen == ['{"step": 2, "loss": 1.0}\n']
