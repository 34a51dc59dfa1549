"""A `config.json` while it is read: what was taken of it, and what of it cannot be said in our settings."""

from collections.abc import Mapping
from typing import Any

from gptwright.config.report import did_you_mean
from gptwright.errors import CheckpointError, Unsupported

HARMLESS = {
    "_name_or_path", "architectures", "auto_map", "bos_token_id", "chunk_size_feed_forward", "classifier_dropout",
    "dtype", "eos_token_id", "gradient_checkpointing", "id2label", "initializer_range", "is_decoder",
    "is_encoder_decoder", "label2id", "max_window_layers", "model_type", "n_ctx", "output_attentions",
    "output_hidden_states", "output_router_logits", "pad_token_id", "pretraining_tp", "problem_type",
    "reorder_and_upcast_attn", "return_dict", "router_aux_loss_coef", "router_jitter_noise", "sep_token_id",
    "summary_activation", "summary_first_dropout", "summary_proj_to_labels", "summary_type", "summary_use_proj",
    "task_specific_params", "tokenizer_class", "torch_dtype", "torchscript", "transformers.js_config",
    "transformers_version", "unk_token_id", "use_cache", "use_return_dict", "vocab_size",
}  # fmt: skip
"""Words that change no logit: of generation, of training and of bookkeeping."""

LARGEST = 1 << 31
"""No size of a model is larger; one that is would be worked on for hours before anybody sees that it is nonsense."""

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "relu": "relu",
    "relu2": "relu_squared",
    "silu": "silu",
    "swish": "silu",
    "quick_gelu": "quick_gelu",
    "tanh": "tanh",
}
"""Their activations with ours; the first of several names is the one that exports use, where none was imported."""


class Words:
    """The words of one `config.json`, over what `transformers` takes where one is missing.

    What cannot be expressed is noted with `cannot`, all of it, and raised together by `finish`.
    """

    def __init__(self, given: Mapping[str, Any], defaults: Mapping[str, Any], *, family: str) -> None:
        self.given, self.defaults, self.family = given, defaults, family
        self.problems: list[str] = []
        self._taken: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        """Return what is said, or what is taken where nothing is."""
        self._taken.add(key)
        return self.given[key] if key in self.given else self.defaults.get(key)

    def __contains__(self, key: object) -> bool:
        return key in self.given

    def count(self, key: str) -> int:
        """Return a whole number above 0.

        Raises:
            CheckpointError: it is none.
        """
        return self._checked(key, self[key])

    def count_or(self, key: str, otherwise: int) -> int:
        """Return a whole number above 0, or ``otherwise`` where it is null or missing."""
        value = self[key]
        return otherwise if value is None else self._checked(key, value)

    def number(self, key: str) -> float:
        """Return a number.

        Raises:
            CheckpointError: it is none.
        """
        value = self[key]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise CheckpointError(f"config.json says {key} is {value!r:.60}, and it must be a number; mend it")
        return float(value)

    def flag(self, key: str) -> bool:
        """Return whether something is so; null is no."""
        return bool(self[key])

    def activation(self, key: str) -> str:
        """Return our name of an activation."""
        value = self[key]
        if value not in ACTIVATIONS:
            self.cannot(f"the activation {value!r:.60} ({key})")
            return "gelu"
        return ACTIVATIONS[value]

    def only(self, key: str, *accepted: Any, what: str) -> None:
        """Note that a word has another value than those that can be expressed."""
        value = self[key]
        if value not in accepted:
            self.cannot(f"{what} ({key} {value!r:.60})")

    def understood(self, *keys: str) -> None:
        """Note that words need no further attention."""
        self._taken.update(keys)

    def cannot(self, what: str) -> None:
        """Note what cannot be expressed."""
        if what not in self.problems:  # once for all layers
            self.problems.append(what)

    def finish(self) -> list[str]:
        """Return the words that were not understood, and so not used.

        Raises:
            Unsupported: there was something that cannot be expressed.
        """
        if self.problems:
            raise Unsupported(
                f"this {self.family} model needs what gptwright has no part for: {'; '.join(self.problems)}; nothing "
                "was imported, as its logits would be others"
            )
        unknown = [key for key in self.given if key not in self._taken and key not in HARMLESS and self.given[key]]
        return sorted(key for key in unknown if not key.startswith("_"))

    def _checked(self, key: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= LARGEST:
            near = did_you_mean(key, self.given) if key not in self.given else ""
            raise CheckpointError(
                f"config.json says {key} is {value!r:.60}, and it must be a whole number above 0 and up to "
                f"{LARGEST}{near}; mend it"
            )
        return value


def their_activation(ours: str) -> str:
    """Return the name that Hugging Face has for an activation of ours, or ours where it has none."""
    common = {"gelu_tanh": "gelu_pytorch_tanh"}
    return common.get(ours) or next((theirs for theirs, mine in ACTIVATIONS.items() if mine == ours), ours)
