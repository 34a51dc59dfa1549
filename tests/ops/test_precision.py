import math
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from gptwright.errors import ConfigError
from gptwright.ops import precision
from gptwright.ops.precision import Machine, Matmul, choose, float32_matmul, measure, peak_flops, probe


def flags():
    return (
        torch.get_float32_matmul_precision(),
        torch.backends.mkldnn.matmul.fp32_precision,
        torch.backends.cuda.matmul.fp32_precision,
    )


def machine(fp32=100e9, medium=100e9, bf16=100e9, medium_error=3e-7, bf16_error=2e-3) -> Machine:
    speeds = {
        "fp32": Matmul(fp32, 3e-7),
        "fp32_medium": Matmul(medium, medium_error),
        "bf16": Matmul(bf16, bf16_error),
    }
    return Machine("somebody's CPU", ("avx2",), 4, speeds)


def picked(name="auto", **speeds):
    return precision._choose_measured(name, machine(**speeds))


def test_the_probe_measures_this_machine_once():
    found = probe()
    assert probe() is found
    assert found.threads == torch.get_num_threads()
    assert set(found.matmul) == {"fp32", "fp32_medium", "bf16"}
    assert found.matmul["fp32"].flops > 1e8
    assert found.matmul["fp32"].right(precision.FP32_ERROR)


def test_the_probe_leaves_flags_and_random_state_alone():
    before, state = flags(), torch.get_rng_state()
    precision._measure.cache_clear()
    precision._probe.cache_clear()
    probe()
    assert flags() == before
    assert torch.equal(torch.get_rng_state(), state)


def test_auto_on_this_machine_is_what_its_figures_say():
    chosen, figures = choose("auto"), probe().matmul
    best = figures[probe().best_fp32()].flops
    assert (chosen.name == "bf16") == (figures["bf16"].flops >= 1.3 * best and figures["bf16"].error < 0.02)
    assert "GFLOP/s" in chosen.reason
    assert peak_flops(chosen) > 0


@pytest.mark.parametrize(
    ("speeds", "name", "mode"),
    [
        ({"bf16": 200e9}, "bf16", "highest"),
        ({"bf16": 120e9}, "fp32", "highest"),
        ({"medium": 300e9, "bf16": 350e9}, "fp32", "medium"),
        ({"medium": 300e9, "bf16": 900e9}, "bf16", "medium"),
        ({"medium": 300e9, "medium_error": 2e-3}, "fp32", "highest"),  # a CPU with AMX rounds to bf16 there
        ({"medium": 105e9}, "fp32", "highest"),  # noise
        ({"bf16": 900e9, "bf16_error": 0.5}, "fp32", "highest"),  # fast and wrong
        ({"bf16": 900e9, "bf16_error": math.nan}, "fp32", "highest"),
        ({"medium": 300e9, "medium_error": math.nan}, "fp32", "highest"),
        ({"bf16": 0.0, "bf16_error": math.nan}, "fp32", "highest"),  # does not run at all
        ({"fp32": 0.0, "medium": 0.0, "bf16": 0.0}, "fp32", "highest"),
    ],
)
def test_auto_follows_the_figures(speeds, name, mode):
    chosen = picked(**speeds)
    assert (chosen.name, chosen.float32_matmul) == (name, mode)
    assert "fp32" in chosen.reason


def test_a_named_precision_is_obeyed_and_the_reason_says_so():
    assert picked("bf16", bf16=1e9).compute_dtype is torch.bfloat16
    assert picked("fp32", bf16=1e15).compute_dtype is torch.float32
    half = picked("fp16")
    assert half.compute_dtype is torch.float16
    assert half.reason.startswith("asked for; fp16 on a CPU is emulated and slow")


def test_an_unknown_precision_is_named():
    with pytest.raises(ConfigError, match="precision 'fp8' is unknown; choose one of auto, fp32, bf16, fp16"):
        choose("fp8")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_missing_device_is_named():
    with pytest.raises(ConfigError, match="device 'cuda' was asked for but this torch sees no CUDA device"):
        choose("auto", "cuda")


def test_the_peak_is_that_of_the_compute_format():
    assert peak_flops(choose("bf16")) == probe().matmul["bf16"].flops
    fp32 = choose("fp32")
    assert peak_flops(replace(fp32, float32_matmul="highest")) == probe().matmul["fp32"].flops
    assert peak_flops(replace(fp32, float32_matmul="medium")) == probe().matmul["fp32_medium"].flops


def test_emulated_fp16_is_measured_without_waiting_for_it():
    assert measure("fp16").flops > 0


def _fail_inside(chosen, seen):
    with chosen.scope():
        seen.append(torch.get_float32_matmul_precision())
        raise ZeroDivisionError


@pytest.mark.parametrize("before", ["highest", "high", "medium"])
def test_scope_sets_and_restores_also_on_errors(before):
    untouched = flags()
    torch.set_float32_matmul_precision(before)
    outside = flags()
    chosen = replace(choose("fp32"), float32_matmul="medium")
    seen = []
    with pytest.raises(ZeroDivisionError):
        _fail_inside(chosen, seen)
    assert seen == ["medium"]
    assert flags() == outside
    torch.set_float32_matmul_precision("highest")
    torch.backends.mkldnn.matmul.fp32_precision, torch.backends.cuda.matmul.fp32_precision = untouched[1:]


def test_scope_restores_flags_set_the_newer_way():
    matmul = torch.backends.mkldnn.matmul
    untouched = matmul.fp32_precision
    try:
        matmul.fp32_precision = "bf16"
        with float32_matmul("highest"):
            assert matmul.fp32_precision == "ieee"
        assert matmul.fp32_precision == "bf16"
    finally:
        matmul.fp32_precision = untouched


def test_it_works_with_one_thread_and_importing_changes_nothing():
    code = (
        "import torch; torch.set_num_threads(1); b = torch.get_float32_matmul_precision()\n"
        "import gptwright.ops.precision as p; assert p._probe.cache_info().currsize == 0\n"
        "assert torch.get_float32_matmul_precision() == b\n"
        "print(p.probe().threads, p.choose().name)"
    )
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == "1"
