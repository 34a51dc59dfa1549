"""Getting ready: from settings to everything that a run needs before its first step."""

from collections.abc import Collection
from dataclasses import dataclass

import torch

from gptwright.errors import CheckpointError
from gptwright.model.freeze import TrainableTable, choose_trained, trainable_table
from gptwright.model.gpt import GPT
from gptwright.model.memory import meta_model
from gptwright.ops.precision import Precision
from gptwright.train import start_from
from gptwright.train.checkpoint import Checkpoint
from gptwright.train.config import RunConfig
from gptwright.train.data import RunData, with_vocabulary
from gptwright.train.display import Display
from gptwright.train.lora import add_adapters
from gptwright.train.measured import choose_once
from gptwright.train.resume import optimizer_state_fits
from gptwright.train.run import CONFIG, RunFolder, read_data
from gptwright.train.saved import Saved
from gptwright.train.work import Work


@dataclass
class Setup:
    """What does not move while a run trains."""

    config: RunConfig
    data: RunData
    precision: Precision
    on_purpose: Collection[str] = ()
    """Settings that a resumed run changes although they touch what was learnt."""
    fresh_optimizer: bool = False
    """Whether a resumed run begins with an optimizer that remembers nothing."""
    base: Saved | None = None
    """What `init_from` stands for; None where weights come from nothing, or from a checkpoint of the run itself."""

    @classmethod
    def of(
        cls,
        config: RunConfig,
        display: Display,
        found: Checkpoint | None,
        folder: RunFolder,
        on_purpose: Collection[str],
    ) -> "Setup":
        """Open the data, choose the precision, and make sure that a checkpoint ``found`` goes with them."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        config.build_schedule()  # phases that do not fit are refused before any work
        refuse_unknown_names(config)
        base = start_from.base_of(config) if found is None else None
        data = RunData.open(
            config,
            device,
            lambda stage, done, total: display.phase(_stage(stage, done, total)),
            start_from.tokenizer(config, found or base),
        )
        if found is not None:
            _refuse_other_data(folder, found, data, on_purpose)
        config = data.config = with_vocabulary(config, data.tokenizer)
        display.phase("measuring the machine")
        kept = found is not None and "train.precision" not in on_purpose
        precision = found.precision() if found and kept else choose_once(config.train.precision, device)
        fresh = found is not None and not optimizer_state_fits(config, read_data(found.folder / CONFIG))
        return cls(config, data, precision, on_purpose, fresh, base)

    def begin(self, *, anew: bool = False) -> Work:
        """Return the run before its first step, from the run's seed; ``anew``: also where a checkpoint was meant."""
        torch.manual_seed(self.config.train.seed)
        base = start_from.base_of(self.config) if anew and self.base is None else self.base
        model = start_from.build_model(self.config, self.data.device, base)
        self.trained = self._choose(model)
        return Work(self, model)

    def _choose(self, model: GPT) -> TrainableTable:
        choose_trained(model, self.config.train.freeze, self.config.train.unfreeze)
        self.config.optimizer_maker.freeze(model)
        return trainable_table(model)


def refuse_unknown_names(config: RunConfig) -> None:
    """Refuse patterns that name no parameter before any work: a model on `meta` has all names and no memory.

    Where there is no pattern nothing is built: the first tensor on `meta` loads much of torch, a second of starting.
    """
    model, train = config.model, config.train
    if not (train.freeze or train.unfreeze or model.init.overrides or config.optim.groups or config.lora):
        return
    built = meta_model(model.model_copy(update={"vocab_size": model.vocab_size or 1}))
    if config.lora is not None:
        add_adapters(built, config.lora)
    choose_trained(built, train.freeze, train.unfreeze)
    config.build_optimizer(built, Precision("fp32", torch.float32, "highest", "only to look at names"))


def _refuse_other_data(folder: RunFolder, found: Checkpoint, data: RunData, on_purpose: Collection[str]) -> None:
    state = found.state()
    vocab, needed = state["vocab_size"], data.tokenizer.vocab_size
    way_out = "give it the source and tokenizer that it began with, or start a new run with --run"
    if vocab != needed:
        raise CheckpointError(
            f"run {folder.folder} was trained with a vocabulary of {vocab} tokens and the data now has {needed}; "
            f"{way_out}"
        )
    if state["data"] != data.prepared.fingerprint and not any(key.startswith("data") for key in on_purpose):
        raise CheckpointError(
            f"run {folder.folder} was trained on data with fingerprint {state['data'][:12]} and data.source now has "
            f"{data.prepared.fingerprint[:12]}: the text has changed; {way_out}"
        )


def _stage(stage: str, done: int, total: int | None) -> str:
    share = f" {100 * done / total:.0f} %" if total else ""
    return f"data: {stage}{share}"
