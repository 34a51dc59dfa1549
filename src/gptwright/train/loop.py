"""The run: from settings to a trained model in a folder."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from gptwright.errors import GptwrightError
from gptwright.optim.quick_start import without_compiler
from gptwright.train import exhausted
from gptwright.train.config import RunConfig
from gptwright.train.display import Display
from gptwright.train.result import TrainResult
from gptwright.train.run import RunFolder
from gptwright.train.settings import Settings, read_settings
from gptwright.train.setup import Setup
from gptwright.train.track import refuse_missing
from gptwright.train.trainer import Trainer

Overrides = Sequence[str] | Mapping[str, Any]


def train(
    config: Settings | None = None,
    overrides: Overrides = (),
    *,
    run: str | Path | None = None,
    resume: bool = False,
    resume_with: Overrides = (),
    trust_code: bool = True,
    progress: bool | None = None,
) -> TrainResult:
    """Train the model that ``config`` describes, and leave a run folder.

    Args:
        config: a YAML file, a preset's name, plain data, or a `RunConfig`; None with ``resume`` reads the run's own.
        overrides: ``key=value`` strings or a mapping from dotted keys to values.
        run: the run folder; default ``runs/<name of the config>``.
        resume: continue the newest sound checkpoint of ``run``; a finished run goes on where ``train.steps`` grew.
        resume_with: the same, with overrides that may break the continuation, on purpose: another learning rate, seed,
            batch or text from here on.
        trust_code: whether ``type: pkg.module:Class`` in a run's saved settings may import code.
        progress: None shows a live bar on a terminal and lines elsewhere, on stderr; False shows nothing.

    Raises:
        GptwrightError: settings, data, folder or checkpoint are not as they must be; nothing was lost.
    """
    folder, resume = RunFolder(run or default_folder(config)), resume or bool(resume_with)
    changes = _merged(overrides, resume_with)
    settings = _settings(config, changes, folder, resume, trust_code)
    if not resume:
        folder.refuse_existing()
    refuse_missing(settings.train.trackers)
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng())
        stack.enter_context(folder.claimed(new=not resume))
        display = stack.enter_context(Display(settings.train.steps, enabled=progress))
        if not settings.train.compile:
            stack.enter_context(without_compiler())
        with exhausted.explained(settings):
            trainer = start(settings, folder, display, resume=resume, on_purpose=keys_of(resume_with))
        return trainer.run()


def start(
    config: RunConfig, folder: RunFolder, display: Display, *, resume: bool, on_purpose: Sequence[str] = ()
) -> Trainer:
    """Open the data, build the model, and restore the newest sound checkpoint if the run goes on."""
    found = folder.checkpoint_for(config, display.warning, on_purpose) if resume else None
    setup = Setup.of(config, display, found, folder, on_purpose)
    trainer = Trainer(setup, folder, display)
    for line in setup.trained.lines() if setup.trained.frozen else ():
        display.message(line)
    if found is not None:
        trainer.resume(found)
        steps = setup.config.train.steps
        done = f"{folder.folder} has taken all its {steps} steps; raise train.steps to train further"
        display.message(done if found.step >= steps else f"resuming {folder.folder} at step {found.step}")
        if setup.fresh_optimizer:
            display.warning("the optimizer begins anew: its state belonged to other parameters or another rule")
    folder.write_config(setup.config)
    return trainer


def keys_of(overrides: Overrides) -> list[str]:
    """Return the dotted keys of overrides."""
    return list(overrides) if isinstance(overrides, Mapping) else [each.partition("=")[0] for each in overrides]


def default_folder(config: Settings | None) -> Path:
    """Return the run folder of a config that names none."""
    name = Path(config).stem if isinstance(config, str | Path) else "run"
    return Path("runs") / name


def _merged(first: Overrides, second: Overrides) -> Overrides:
    if not second:
        return first
    if isinstance(first, Mapping) or isinstance(second, Mapping):
        return {**_mapping(first), **_mapping(second)}
    return [*first, *second]


def _mapping(overrides: Overrides) -> Mapping[str, Any]:
    if isinstance(overrides, Mapping):
        return overrides
    if overrides:
        raise GptwrightError("overrides and resume_with must both be key=value strings, or both mappings")
    return {}


def _settings(config: Any, overrides: Any, folder: RunFolder, resume: bool, trust_code: bool) -> RunConfig:
    if config is None and not resume:
        raise GptwrightError("no settings were given; name a YAML file or a preset, or continue a run with --resume")
    if config is None:
        return read_settings(folder.require_config(), overrides, trust_code=trust_code).config
    own = folder.config_file if resume else None
    return read_settings(config, overrides, trust_saved=trust_code, own=own).config
