"""Optimizers that do not load the compiler, and are the same without it."""

import sys

import torch

from gptwright.optim.quick_start import without_compiler

from .. import tiny

CODE = """
import json, sys
import gptwright as gw
gw.train(json.loads(sys.argv[1]), run="r", progress=False)
print("torch._dynamo" in sys.modules, "torch._inductor" in sys.modules)
"""


def test_a_run_that_compiles_nothing_loads_no_compiler(tmp_path):
    import json

    book = tmp_path / "book.txt"
    book.write_text(tiny.text(400))
    config = tiny.settings(book, {"train.steps": 2})
    process = tiny.python(CODE, tmp_path, json.dumps(config))
    out, said = process.communicate(timeout=100)
    assert (out.strip(), process.returncode) == ("False False", 0), said


def test_torch_is_afterwards_as_it_was():
    assert "torch._dynamo" in sys.modules or torch  # either way nothing may stay behind
    before = {name: dict(vars(getattr(method, "__wrapped__", method))) for name, method in _methods()}
    with without_compiler():
        torch.optim.SGD([torch.zeros(2, requires_grad=True)], lr=0.1).add_param_group(
            {"params": [torch.zeros(1, requires_grad=True)]}
        )
    assert {name: dict(vars(getattr(method, "__wrapped__", method))) for name, method in _methods()} == before


def _methods():
    return [(name, method) for name, method in vars(torch.optim.Optimizer).items() if callable(method)]
