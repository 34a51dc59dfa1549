"""The run: from settings to a trained model in a folder."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from gptwright.errors import GptwrightError
from gptwright.train.config import RunConfig
from gptwright.train.display import Display
from gptwright.train.run import RunFolder
from gptwright.train.settings import Settings, read_settings
from gptwright.train.trainer import Trainer, TrainResult


def train(
    config: Settings | None = None,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    *,
    run: str | Path | None = None,
    resume: bool = False,
    trust_code: bool = True,
    progress: bool | None = None,
) -> TrainResult:
    """Train the model that ``config`` describes, and leave a run folder.

    Args:
        config: a YAML file, a preset's name, plain data, or a `RunConfig`; None with ``resume`` reads the run's own.
        overrides: ``key=value`` strings or a mapping from dotted keys to values.
        run: the run folder; default ``runs/<name of the config>``.
        resume: continue the newest sound checkpoint of ``run``.
        trust_code: whether ``type: pkg.module:Class`` in a run's saved settings may import code.
        progress: None shows a live bar on a terminal and lines elsewhere, on stderr; False shows nothing.

    Raises:
        GptwrightError: settings, data, folder or checkpoint are not as they must be; nothing was lost.
    """
    folder = RunFolder(run or default_folder(config))
    settings = _settings(config, overrides, folder, resume, trust_code)
    if not resume:
        folder.refuse_existing()
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng())
        display = stack.enter_context(Display(settings.train.steps, enabled=progress))
        trainer = Trainer.start(settings, folder, display, resume=resume)
        return trainer.run()


def default_folder(config: Settings | None) -> Path:
    """Return the run folder of a config that names none."""
    name = Path(config).stem if isinstance(config, str | Path) else "run"
    return Path("runs") / name


def _settings(config: Any, overrides: Any, folder: RunFolder, resume: bool, trust_code: bool) -> RunConfig:
    if config is None and not resume:
        raise GptwrightError("no settings were given; name a YAML file or a preset, or continue a run with --resume")
    if config is None:
        return read_settings(folder.require_config(), overrides, trust_code=trust_code).config
    return read_settings(config, overrides).config
