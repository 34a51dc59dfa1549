"""Which tasks of lm-evaluation-harness are meant: by name, as a YAML file, or as a folder of those."""

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from gptwright.errors import DataError
from gptwright.evaluate.libraries import library

_SUFFIXES = (".yaml", ".yml")


def load_tasks(names: Sequence[str], include_path: str | Path | None = None) -> tuple[Any, dict[str, Any]]:
    """Return lm_eval's task manager and what its ``load`` made of ``names``, data read and all.

    Args:
        names: tasks, groups or tags by name (``*`` matches any part of it), YAML files, or folders of them.
        include_path: another folder of YAML files, whose tasks may be named.

    Raises:
        DataError: there is no such task, a file cannot be used, or a task's data cannot be read.
    """
    if include_path is not None and not Path(include_path).expanduser().is_dir():
        raise DataError(f"there is no folder {include_path} (include path); give a folder of task YAML files")
    folders = [Path(include_path).expanduser()] if include_path is not None else []
    folders += [Path(name).expanduser() for name in names if _is_folder(name)]
    manager = _manager(folders, [name for name in names if not _is_place(name)])
    specs = list(dict.fromkeys(spec for name in names for spec in _specs(manager, name)))
    if not specs:
        raise DataError("no task is named; give names, YAML files or folders of them, for example hellaswag")
    return manager, _load(manager, specs)


def _is_folder(name: str) -> bool:
    return Path(name).expanduser().is_dir()


def _is_place(name: str) -> bool:
    return name.endswith(_SUFFIXES) or _is_folder(name)


def _manager(folders: Sequence[Path], names: Sequence[str]) -> Any:
    """Return a manager that knows the folders, and lm_eval's own thousands of tasks only if those are named."""
    make = library("lm_eval.tasks", "a task").TaskManager
    own = make(include_path=list(folders), include_defaults=False)
    if all(own.match_tasks([name]) for name in names):
        return own
    return make(include_path=list(folders))


def _specs(manager: Any, name: str) -> Iterator[str]:
    if _is_folder(name):
        root = Path(name).expanduser()
        inside = [each for each, entry in manager.task_index.items() if _lies_in(entry.yaml_path, root)]
        if not inside:
            raise DataError(f"the folder {name} has no task: no .yaml file in it has a 'task' that can be read")
        yield from sorted(inside)
    elif name.endswith(_SUFFIXES):
        if not Path(name).expanduser().is_file():
            raise DataError(f"there is no task file {name} (current directory {Path.cwd()})")
        yield str(Path(name).expanduser())
    else:
        found = manager.match_tasks([name])
        if not found:
            close = get_close_matches(name, manager.all_tasks, n=3, cutoff=0.6)
            near = f"; similar names: {', '.join(close)}" if close else ""
            raise DataError(
                f"there is no task '{name}' among {len(manager.all_tasks):,} of lm-evaluation-harness and the folders "
                f"given{near}; give a task's name, a YAML file or a folder of them"
            )
        yield from found


def _lies_in(path: Path | None, root: Path) -> bool:
    return path is not None and path.resolve().is_relative_to(root.resolve())


def _load(manager: Any, specs: Sequence[str]) -> dict[str, Any]:
    try:
        return manager.load(list(specs))
    except Exception as error:  # the libraries below raise dozens of unrelated kinds
        reason = " ".join(str(error).split())[:300]
        raise DataError(
            f"the tasks {', '.join(specs)} cannot be loaded ({type(error).__name__}: {reason}): most tasks fetch their "
            "data from the Hugging Face hub, so check the network and the task's file; a task whose dataset_path is "
            "json with data_files of your own needs no network"
        ) from error
