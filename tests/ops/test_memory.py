import resource
import sys

import pytest
import torch

from gptwright.ops.memory import kept_memory


def faults_of_a_large_tensor() -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(6_000_000)  # 24 MB: 5859 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's; runs on Linux")
def test_freed_blocks_are_used_again_inside_and_given_back_outside():
    with kept_memory():
        torch.ones(6_000_000)
        assert faults_of_a_large_tensor() < 500
    assert faults_of_a_large_tensor() > 5000
