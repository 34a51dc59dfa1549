"""What a family of models in the Hugging Face world is to us: its settings and its tensors in our words, both ways.

One file each in the folder `families`. A family says how its `config.json` reads in our settings, how ours would read
in its words, and which module of ours is which of theirs. Nothing else is needed: an export is read back as an import
would read it and compared setting by setting, so that a family never takes a model that it would compute otherwise.
"""

import pkgutil
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Any, ClassVar

from gptwright.errors import CheckpointError, ConfigError, GptwrightError, Unsupported
from gptwright.interop import families
from gptwright.interop.plain import differences, plain
from gptwright.interop.rules import Rule, Table, rules_of
from gptwright.interop.words import Words
from gptwright.model.config import ModelConfig
from gptwright.model.memory import meta_model


class Family:
    """One architecture of `transformers`; subclasses fill in the words."""

    MODEL_TYPE: ClassVar[str]
    """Its name in a config.json."""
    ARCHITECTURE: ClassVar[str]
    """The class of `transformers` that generates with it."""
    BASE: ClassVar[str] = "model."
    """What stands before the names of tensors, and is left out by checkpoints of the model without its head."""
    DEFAULTS: ClassVar[dict[str, Any]] = {}
    """What `transformers` takes where its config.json says nothing."""
    SURPLUS: ClassVar[tuple[str, ...]] = ("*.rotary_emb.inv_freq",)
    """Tensors that old checkpoints have and that say nothing: masks, frequencies."""

    OWN_TOKENIZER: ClassVar[bool] = False
    """Whether `transformers` reads every tokenizer of this family as the family's own kind, whatever it is."""

    def settings(self, words: Words) -> dict[str, Any]:
        """Return the settings of our model; what they cannot say is noted in ``words``."""
        raise NotImplementedError

    def words(self, config: ModelConfig) -> dict[str, Any]:
        """Return the words of a config.json that come nearest to ``config``; whether they fit is found by reading."""
        raise NotImplementedError

    def table(self, config: ModelConfig) -> Table:
        """Return which module of ours is which of theirs."""
        raise NotImplementedError

    def read(self, given: Mapping[str, Any]) -> tuple[ModelConfig, list[str]]:
        """Return our settings of what a config.json says, and its words that were not understood.

        Raises:
            Unsupported: it describes a model that our parts cannot be; everything that is missing is listed.
            CheckpointError: a value is nonsense.
        """
        words = Words(given, self.DEFAULTS, family=self.MODEL_TYPE)
        try:
            settings = self.settings(words)
        except (KeyError, TypeError, ZeroDivisionError, ValueError, OverflowError) as error:
            missing = isinstance(error, KeyError)
            what = f"{error} is missing" if missing else f"a value is of the wrong kind ({error!s:.80})"
            raise CheckpointError(
                f"the config.json of this {self.MODEL_TYPE} model cannot be understood: {what}; mend it"
            ) from None
        unknown = words.finish()
        try:
            return ModelConfig.from_dict({"vocab_size": words.count("vocab_size"), **settings}), unknown
        except ConfigError as error:
            raise Unsupported(f"this {self.MODEL_TYPE} model cannot be built of our parts: {error}") from None

    def write(self, config: ModelConfig) -> dict[str, Any]:
        """Return a config.json for ``config``.

        Raises:
            Unsupported: the family would compute something else; `misfits` says what.
        """
        found = self.misfits(config)
        if found:
            raise Unsupported(f"{self.MODEL_TYPE} cannot be this model: {'; '.join(found)}")
        said = {"architectures": [self.ARCHITECTURE], "model_type": self.MODEL_TYPE}
        return {**said, **self.words(config), "vocab_size": config.require_vocab_size()}

    def misfits(self, config: ModelConfig) -> list[str]:
        """Return a phrase for each setting that this family has no words for, none where it fits."""
        try:
            said = {**self.words(config), "vocab_size": config.require_vocab_size()}
            back = self.read(said)[0]
        except GptwrightError as error:
            return [" ".join(str(error).split())]
        except (KeyError, AttributeError, TypeError, ValueError):  # it looked for a part that is not there
            return [f"its parts are others than those of {self.MODEL_TYPE}"]
        found = differences(plain(config), plain(back))
        return [f"{path} is {mine!r} and would be {its!r}" for path, (mine, its) in found.items()]

    def rules(self, config: ModelConfig) -> list[Rule]:
        """Return the rules for every tensor of ``config``."""
        return list(rules_of(self.table(config), shapes_of(config)))


def shapes_of(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the shapes of our parameters and buffers by name, a tied head left out, without allocating any."""
    shapes = {name: tuple(tensor.shape) for name, tensor in meta_model(config).state_dict().items()}
    if config.tie_embeddings:
        shapes.pop("lm_head.weight", None)
    return shapes


@cache
def known_families() -> dict[str, Family]:
    """Return all families by `model_type`, in the order in which an export tries them."""
    found: list[Family] = []
    for module in sorted(one.name for one in pkgutil.iter_modules(families.__path__)):
        public = vars(import_module(f"{families.__name__}.{module}")).values()
        classes = [one for one in public if isinstance(one, type) and issubclass(one, Family)]
        here = f"{families.__name__}.{module}"
        found += [one() for one in classes if one.__module__ == here and "MODEL_TYPE" in vars(one)]
    return {family.MODEL_TYPE: family for family in found}
