"""Page faults are counted in a process of its own: they depend on everything that was allocated before."""

import json
import subprocess
import sys

import pytest

COUNT = """
import json, resource, torch
from gptwright.ops.memory import kept_memory

def faults():  # of one tensor of 24 MB, which has 5859 pages
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(6_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

with kept_memory():
    for _ in range(60):  # the heap grows until freed blocks lie side by side and fit the next tensor
        inside = faults()
print(json.dumps([inside, faults()]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's; runs on Linux")
def test_freed_blocks_are_used_again_inside_and_given_back_outside():
    done = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=True)
    inside, outside = json.loads(done.stdout)
    assert inside < 500
    assert outside > 5000
