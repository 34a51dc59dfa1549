"""A hundred thousand tokens in one text: memory and time a token over its course, with linear and local attention.

One text is drawn at random by one engine; each tenth of it is measured for itself.

    python benchmarks/long.py [--quick] [--tokens 100000] [--kinds linear local] [--out FILE.json]
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from common import describe_machine, spread
from decoding import build

from gptwright.generate.engine import Engine, Request, Ticket
from gptwright.generate.sampling import Sampling

KINDS = {
    "linear": {"attention": {"type": "linear", "n_heads": 4}, "position": "rotary"},
    "local": {"attention": {"type": "local", "n_heads": 4, "window": 128}, "position": "rotary"},
    "gated_delta": {"attention": {"type": "gated_delta", "n_heads": 4}, "position": "none"},
}
PARTS = 10
"""Stretches of the text that are measured one by one."""


def resident() -> int:
    """Return the bytes of memory that this process holds."""
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith("VmRSS"))
    return 1024 * int(line.split()[1])


def write(kind: str, tokens: int, width: int) -> list[dict[str, float]]:
    """Write a text and return what was measured in each of its parts."""
    model = build({"vocab_size": 256, "d_model": width, "n_layers": 4, "max_seq_len": 256, **KINDS[kind]})
    engine, rows = Engine(model, rows=1, reuse="none"), []
    size = tokens // PARTS
    began, seconds = time.perf_counter(), []

    def note(ticket: Ticket, choice: object) -> None:
        nonlocal began
        del choice
        now = time.perf_counter()
        seconds.append(now - began)
        if len(ticket.ids) % size == 0:
            rows.append(part(len(ticket.ids), seconds, engine))
            seconds.clear()
        began = time.perf_counter()

    how = Sampling(temperature=1.0, max_new_tokens=tokens, ignore_end=True)
    engine.submit(Request([1, 2, 3], how, seed=0, on_token=note))
    engine.run()
    return rows


def part(written: int, seconds: list[float], engine: Engine) -> dict[str, float]:
    """Return and print one part's figures."""
    found = {"tokens": written, **spread(seconds), "state_bytes": engine.decoder.nbytes, "resident_bytes": resident()}
    print(
        f"  {written:9,} tokens  {1e6 * found['median']:8.1f} us a token ({1e6 * found['low']:.1f} to "
        f"{1e6 * found['high']:.1f})  states {found['state_bytes']:,} bytes  "
        f"process {found['resident_bytes'] / 1e6:.1f} MB",
        flush=True,
    )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few tokens, to see that it runs")
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=["linear", "local"])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    tokens, width = (200, 32) if args.quick else (args.tokens, 128)
    found: dict[str, Any] = {}
    for kind in args.kinds:
        print(kind)
        rows = found[kind] = write(kind, tokens, width)
        first, last = rows[1], rows[-1]
        grown = last["resident_bytes"] - first["resident_bytes"]
        print(
            f"  last part against the second: time {last['median'] / first['median']:.3f}, states "
            f"{last['state_bytes'] / first['state_bytes']:.3f}, process {grown / 1e6:+.1f} MB"
        )
    if args.out:
        args.out.write_text(json.dumps({"machine": describe_machine(), "kinds": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
