"""How fast `gptwright data prepare` is with one worker and with two, and how much memory it needs as the text grows.

    python benchmarks/prepare.py                     # 100 and 1000 MB of each source: 5 GB of disk, an hour
    python benchmarks/prepare.py --small 5 --large 20 --kinds text jsonl --tokenizers byte

Each preparation is a process of its own, whose peak of resident memory is read from outside (VmHWM in /proc; Linux).
The text is random words from a list of 50,000, so that it compresses and repeats about as prose does.
"""

import argparse
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

WORDS = 50_000
DOCUMENT = 4_000  # bytes, about
TOKENIZERS = {"byte": ["--tokenizer", "byte"], "char": ["--tokenizer", "char"], "bpe": ["--tokenizer", "bpe"]}


def documents(megabytes: float) -> Iterator[str]:
    """Yield documents of random words."""
    draw = random.Random(0)
    words = ["".join(draw.choices("etaoinshrdlucmfwyp", k=draw.randint(1, 9))) for _ in range(WORDS)]
    chances = [1 / (rank + 3) for rank in range(WORDS)]
    left = megabytes * 1e6
    pool = [" ".join(draw.choices(words, chances, k=120)) for _ in range(4000)]
    while left > 0:
        text = "\n".join(draw.choices(pool, k=max(1, DOCUMENT // 650)))
        yield text
        left -= len(text)


def as_text(folder: Path, megabytes: float) -> Path:
    """Write one file of text."""
    with (folder / "text.txt").open("w") as file:
        for text in documents(megabytes):
            file.write(text + "\n")
    return folder / "text.txt"


def as_jsonl(folder: Path, megabytes: float) -> Path:
    """Write a line a document."""
    with (folder / "rows.jsonl").open("w") as file:
        for text in documents(megabytes):
            file.write(json.dumps({"text": text}) + "\n")
    return folder / "rows.jsonl"


def as_parquet(folder: Path, megabytes: float) -> Path:
    """Write a row a document, in row groups of at most 64k rows."""
    import pyarrow
    import pyarrow.parquet

    schema = pyarrow.schema([("text", pyarrow.string())])
    with pyarrow.parquet.ParquetWriter(folder / "rows.parquet", schema) as file:
        held: list[str] = []
        for text in documents(megabytes):
            held.append(text)
            if len(held) == 1 << 14:
                file.write_table(pyarrow.table({"text": held}))
                held.clear()
        file.write_table(pyarrow.table({"text": held}, schema=schema))
    return folder / "rows.parquet"


def as_folder(folder: Path, megabytes: float) -> Path:
    """Write a file for every 64 documents."""
    (folder / "shelf").mkdir()
    held: list[str] = []
    for number, text in enumerate(documents(megabytes)):
        held.append(text)
        if len(held) == 64:
            (folder / "shelf" / f"{number:08d}.txt").write_text("\n".join(held))
            held.clear()
    (folder / "shelf" / "last.txt").write_text("\n".join(held) or "end")
    return folder / "shelf"


KINDS: dict[str, Callable[[Path, float], Path]] = {
    "text": as_text,
    "jsonl": as_jsonl,
    "parquet": as_parquet,
    "folder": as_folder,
}


def prepare(source: Path, out: Path, tokenizer: str, workers: int, extra: list[str]) -> tuple[float, float]:
    """Prepare ``source`` in a process of its own; return seconds and the peak of its memory in MB."""
    command = [sys.executable, "-m", "gptwright", "data", "prepare", str(source), *extra, "--out", str(out), "--quiet"]
    command += [*TOKENIZERS[tokenizer], "--workers", str(workers), "--json"]
    threads = {"OMP_NUM_THREADS": str(workers), "RAYON_NUM_THREADS": str(workers)}  # the library of bpe has its own
    began, peak = time.perf_counter(), 0.0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ | threads) as process:
        while process.poll() is None:
            peak = max(peak, _peak(process.pid))
            time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"failed: {' '.join(command)}")
    return time.perf_counter() - began, peak


def _peak(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((float(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


def main() -> None:
    """Print a line for each preparation, and how the peaks of the two sizes compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", type=float, default=100, metavar="MB")
    parser.add_argument("--large", type=float, default=1000, metavar="MB")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--tokenizers", nargs="+", choices=TOKENIZERS, default=list(TOKENIZERS))
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--dedup", action="store_true", help="leave out duplicates, too")
    chosen = parser.parse_args()
    extra = ["data.dedup=true"] if chosen.dedup else []
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"{'source':10}{'tokenizer':11}{'workers':>8}{'MB':>8}{'seconds':>10}{'MB/s':>8}{'peak MB':>9}")
    for kind in chosen.kinds:
        peaks: dict[tuple[str, int], list[float]] = {}
        for megabytes in (chosen.small, chosen.large):
            with tempfile.TemporaryDirectory(prefix="gptwright-prepare-") as folder:
                source = KINDS[kind](Path(folder), megabytes)
                for tokenizer in chosen.tokenizers:
                    for workers in chosen.workers:
                        seconds, peak = prepare(source, Path(folder, "out"), tokenizer, workers, extra)
                        shutil.rmtree(Path(folder, "out"))
                        peaks.setdefault((tokenizer, workers), []).append(peak)
                        speed = megabytes / seconds
                        row = f"{workers:>8}{megabytes:>8.0f}{seconds:>10.1f}{speed:>8.1f}{peak:>9.0f}"
                        print(f"{kind:10}{tokenizer:11}{row}", flush=True)
        for (tokenizer, workers), (small, large) in peaks.items():
            print(f"{kind}, {tokenizer}, {workers} workers: peak {large / small:.2f} of the smaller text's")


if __name__ == "__main__":
    main()
