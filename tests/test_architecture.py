"""The shape of the house: what may import what, what may be lazy, and what a component's folder holds."""

import ast
import importlib
import inspect
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import gptwright

SOURCE = Path(gptwright.__file__).parent

FLOORS = {
    "errors": -1,
    "hub": 0,
    "config": 0,
    "ops": 1,
    "nn": 2,
    "model": 3,
    "tokenizer": 3,
    "data": 3,
    "optim": 3,
    "parallel": 4,
    "train": 5,
    "generate": 5,
    "interop": 5,
    "evaluate": 5,
    "check": 5,
    "lab": 6,
    "serve": 6,
    "dropin": 6,
    "cli": 7,
    "__main__": 8,
}
"""Each folder (or file) of the package with its floor: imports go down, or stay in the folder."""
BLIND = {3}
"""Floors whose folders must not know each other."""

OPTIONAL = {
    "datasets",
    "gguf",
    "huggingface_hub",
    "llguidance",
    "lm_eval",
    "mlflow",
    "peft",
    "pyarrow",
    "scipy",
    "tensorboard",
    "tqdm",
    "torch.utils.tensorboard",
    "transformers",
    "wandb",
}
"""Third-party packages of the extras, which are imported where they are needed and nowhere else."""
EXTENDING = {
    "gptwright.interop.causal_lm",
    "gptwright.interop.causal_states",
    "gptwright.interop.remote.configuration_gptwright",
    "gptwright.interop.remote.modeling_gptwright",
}
"""Modules of classes that extend those of an extra: they need it from their first line, and nobody else knows them."""
LATE_ON_PURPOSE = {"pydoc_data.topics"}
"""Modules that are data, large and seldom wanted."""
LAZY = {"cli"}
"""Folders that may import late for speed: `gptwright --help` must not wait for torch."""

MENUS = {
    "nn/attention": "gptwright.nn.base:Attention",
    "nn/feed_forward": "gptwright.nn.base:FeedForward",
    "nn/norm": "gptwright.nn.base:Norm",
    "nn/scaling": "gptwright.nn.frequencies:Scaling",
    "nn/position": "gptwright.nn.base:Position",
    "tokenizer/kinds": "gptwright.tokenizer.base:Tokenizer",
    "optim/optimizer": "gptwright.optim.base:OptimizerMaker",
    "optim/schedule": "gptwright.optim.base:Schedule",
    "train/callbacks": "gptwright.train.callback:Callback",
    "train/track/kinds": "gptwright.train.track.base:Tracker",
}
"""The folders that are the menu of a slot, with what their components extend."""


@dataclass(frozen=True)
class Import:
    """One import statement."""

    module: str
    line: int
    late: bool
    """Whether it stands inside a function."""


def imports(file: Path, source: Path) -> Iterator[Import]:
    """Yield every import of a file of the package at ``source``, those for type checkers left out."""
    package = ["gptwright", *file.relative_to(source).parts[:-1]]
    yield from _imports(ast.parse(file.read_text()), package, late=False)


def _imports(node: ast.AST, package: list[str], *, late: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from _imports(ast.Module(child.orelse, []), package, late=late)
            continue
        for module in _modules(child, package):
            yield Import(module, getattr(child, "lineno", 0), late)
        inside = late or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from _imports(child, package, late=inside)


def _modules(node: ast.AST, package: list[str]) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        start = package[: len(package) - node.level + 1] if node.level else []
        module = ".".join([*start, *([node.module] if node.module else [])])
        if module == "gptwright" or not node.module or module.startswith("torch"):
            return [f"{module}.{alias.name}" for alias in node.names]
        return [module]
    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module") and node.args:
        name = node.args[0]
        return [name.value] if isinstance(name, ast.Constant) and isinstance(name.value, str) else []
    return []


def violations(source: Path) -> list[str]:
    """Return a sentence for every import in the package at ``source`` that breaks a rule."""
    found = []
    for file in sorted(source.rglob("*.py")):
        name = file.relative_to(source).as_posix()
        home = name.partition("/")[0].removesuffix(".py")
        if home == "__init__":
            continue  # the public names, loaded when they are used
        extending = ".".join(["gptwright", *file.relative_to(source).with_suffix("").parts]) in EXTENDING
        for item in imports(file, source):
            reason = _floor_reason(home, item) or (None if extending else _late_reason(home, item))
            if reason:
                found.append(f"{name}:{item.line} imports {item.module}: {reason}")
    return found


def _floor_reason(home: str, item: Import) -> str | None:
    parts = item.module.split(".")
    if parts[0] != "gptwright" or len(parts) == 1 or parts[1] == "__version__":
        return None
    other = parts[1]
    if other not in FLOORS:
        return "this is no folder with a floor; give it one, or import the module that holds the name"
    if home == other:
        return None
    if FLOORS[other] > FLOORS[home]:
        return f"{home} (floor {FLOORS[home]}) may not know {other} (floor {FLOORS[other]})"
    if FLOORS[other] == FLOORS[home] and FLOORS[home] in BLIND:
        return f"{home} and {other} are siblings, blind to each other"
    return None


def _late_reason(home: str, item: Import) -> str | None:
    if item.module in EXTENDING:
        return "it extends classes of an extra; only the lazy public names lead there"
    optional = any(item.module == name or item.module.startswith(f"{name}.") for name in OPTIONAL)
    if optional and not item.late:
        return "it belongs to an extra; import it in the function that needs it"
    if item.late and not optional and home not in LAZY and item.module not in LATE_ON_PURPOSE:
        return "only packages of the extras are imported inside functions"
    if home == "config" and item.module.partition(".")[0] in ("torch", "numpy"):
        return "settings must not need it"
    return None


def test_imports_go_down_the_floors():
    assert violations(SOURCE) == []


def test_every_folder_has_a_floor():
    folders = {path.stem for path in SOURCE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert folders - {"__init__"} <= set(FLOORS)


@pytest.mark.parametrize(
    ("file", "code", "reason"),
    [
        ("nn/a.py", "from gptwright.model.gpt import GPT", "nn (floor 2) may not know model (floor 3)"),
        ("nn/a.py", "from gptwright import model", "nn (floor 2) may not know model (floor 3)"),
        ("nn/a.py", "from ..train import step", "nn (floor 2) may not know train (floor 5)"),
        ("nn/deep/a.py", "from ...train import step", "nn (floor 2) may not know train (floor 5)"),
        ("nn/a.py", "def f():\n    import gptwright.cli.main", "nn (floor 2) may not know cli (floor 7)"),
        ("nn/a.py", "from importlib import import_module\nimport_module('gptwright.train')", "may not know train"),
        ("nn/a.py", "try:\n    import gptwright.cli\nexcept ImportError:\n    pass", "may not know cli"),
        ("data/a.py", "from gptwright.tokenizer.base import Tokenizer", "siblings, blind to each other"),
        ("data/a.py", "def f():\n    import json", "only packages of the extras are imported inside functions"),
        ("data/a.py", "import datasets", "it belongs to an extra"),
        ("train/a.py", "from torch.utils.tensorboard import SummaryWriter", "it belongs to an extra"),
        ("config/a.py", "from torch import nn", "settings must not need it"),
        ("interop/a.py", "from gptwright.interop.causal_lm import GPTWrightForCausalLM", "extends classes of an extra"),
        ("config/a.py", "import gptwright.attic", "this is no folder with a floor"),
        ("train/a.py", "from gptwright import GPT", "this is no folder with a floor"),
        ("train/a.py", "from gptwright import __version__", None),
        ("cli/a.py", "def f():\n    import torch\n    from gptwright.train import step", None),
        ("data/a.py", "def f():\n    import datasets\n    from pyarrow import parquet", None),
        ("nn/a.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from gptwright.model import gpt", None),
        ("nn/a.py", "from gptwright.ops import rope\nfrom gptwright.errors import ConfigError\nfrom . import b", None),
        ("evaluate/a.py", "from gptwright.train.load import load", None),
    ],
)
def test_the_rules_are_seen_to_be_broken(tmp_path, file, code, reason):
    target = tmp_path / file
    target.parent.mkdir(parents=True)
    target.write_text(code)
    found = violations(tmp_path)
    if reason is None:
        assert found == []
    else:
        assert len(found) == 1
        assert reason in found[0]


def _component_files() -> list[tuple[str, str]]:
    return [
        (folder, file.stem)
        for folder in MENUS
        for file in sorted((SOURCE / folder).glob("*.py"))
        if not file.stem.startswith("_")
    ]


def test_every_menu_offers_something():
    assert {folder for folder, _ in _component_files()} == set(MENUS)


@pytest.mark.parametrize(("folder", "name"), _component_files())
def test_a_file_of_a_menu_is_one_component(folder, name):
    module = importlib.import_module(f"gptwright.{folder.replace('/', '.')}.{name}")
    base_module, _, base_name = MENUS[folder].partition(":")
    base = getattr(importlib.import_module(base_module), base_name)
    own = [found for found in vars(module).values() if inspect.isclass(found) and found.__module__ == module.__name__]
    components = [found for found in own if not found.__name__.startswith("_") and issubclass(found, base)]
    assert [component.type_name() for component in components] == [name]
    assert components[0].__doc__


def _python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout.strip()


def test_importing_the_package_is_light():
    code = (
        "import sys, threading\n"
        "before = set(sys.modules)\n"
        "import gptwright\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'typer', 'rich', 'ruamel'} & (set(sys.modules) - before)\n"
        "print(sorted(heavy), threading.active_count(), len(set(sys.modules) - before) < 20)"
    )
    assert _python(code) == "[] 1 True"


def test_settings_need_no_torch():
    code = (
        "import sys\n"
        "import gptwright.config.load, gptwright.config.schema\n"
        "print(sorted({'torch', 'numpy'} & set(sys.modules)))"
    )
    assert _python(code) == "[]"


def test_importing_changes_no_setting_of_torch():
    code = (
        "import torch\n"
        "def state():\n"
        "    return (torch.get_num_threads(), torch.get_float32_matmul_precision(), torch.get_default_dtype(),\n"
        "            torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled(),\n"
        "            torch.backends.mkldnn.matmul.fp32_precision, torch.initial_seed())\n"
        "torch.manual_seed(5)\n"
        "before = state()\n"
        "import gptwright\n"
        "gptwright.GPT, gptwright.RunConfig\n"
        "print(state() == before)"
    )
    assert _python(code) == "True"
