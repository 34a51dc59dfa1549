"""The public face is small and golden: a new name, argument or setting shows in a diff.

`make golden` writes the files of tests/golden/ anew.
"""

import inspect
import json
import subprocess
import sys
from pathlib import Path

import gptwright
from gptwright.config.schema import json_schema

GOLDEN = Path(__file__).parent / "golden"


def face():
    """Return a line for each public name: how it is called, its own methods and its fields."""
    lines = []
    for name in sorted(gptwright.__all__):
        found = getattr(gptwright, name)
        lines.append(_called(name, found))
        if inspect.isclass(found) and not issubclass(found, Exception):
            own = {key: value for key, value in vars(found).items() if not key.startswith("_")}
            lines += [f"  {_called(key, value)}" for key, value in sorted(own.items()) if _is_method(value)]
            lines += [f"  {key}" for key in getattr(found, "model_fields", {}) if key != "type"]
    return "\n".join(lines) + "\n"


def _is_method(value):
    return inspect.isfunction(value) or isinstance(value, classmethod | staticmethod | property)


def _called(name, found):
    found = getattr(found, "__func__", found)
    if isinstance(found, str | property) or hasattr(found, "model_fields"):
        return name
    if inspect.isclass(found) and issubclass(found, Exception):
        return f"{name}({found.__base__.__name__})"
    parameters = inspect.signature(found).parameters.values()
    return name + str(inspect.Signature([each.replace(annotation=inspect.Parameter.empty) for each in parameters]))


def test_the_public_names_are_golden():
    saved = (GOLDEN / "public_api.txt").read_text("utf-8")
    assert face() == saved, "the public face has changed; if that is meant, run: make golden"


def test_the_settings_are_golden():
    saved = json.loads((GOLDEN / "schema.json").read_text("utf-8"))
    assert json_schema(gptwright.RunConfig) == saved, "settings have changed; if that is meant, run: make golden"


def test_every_name_says_what_it_is():
    named = [getattr(gptwright, name) for name in gptwright.__all__ if name != "__version__"]
    assert [found for found in named if not found.__doc__] == []


def test_verbs_stay_functions_after_their_packages_are_imported():
    code = (
        "import gptwright as gw\n"
        "gw.load, gw.RunConfig\n"
        "import gptwright.train.loop, gptwright.generate.text, gptwright.evaluate.likelihood\n"
        "from gptwright.train import config\n"
        "print(*(type(f).__name__ for f in (gw.train, gw.generate, gw.evaluate)), type(config).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == ["function", "function", "function", "module"]


if __name__ == "__main__":
    sys.stdout.write(face())
