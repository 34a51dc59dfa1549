"""What a task of lm-evaluation-harness says about writing text, as our own sampling settings."""

from collections.abc import Mapping
from typing import Any

from gptwright.errors import GptwrightError
from gptwright.generate.sampling import Sampling

NEW_TOKENS = 256
"""New tokens of a continuation, where a task does not say how many."""
_ALIASES = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_DRAWING = ("top_k", "top_p", "min_p", "typical_p")
_PASSED_ON = (*_DRAWING, "temperature", "repetition_penalty", "presence_penalty", "frequency_penalty")
_MEANINGLESS = {"num_beams": 1, "num_return_sequences": 1, "use_cache": True}
"""Settings that tasks carry along, with the value that means what we do anyway."""


def read_settings(given: Mapping[str, Any], seed: int = 0) -> Sampling:
    """Return what a task's ``generation_kwargs`` mean here.

    Raises:
        GptwrightError: one is unknown or has no meaning.
    """
    settings = dict(given)
    until = settings.pop("until", None) or []
    most = [value for name in _ALIASES if (value := settings.pop(name, None)) is not None]
    for name, usual in _MEANINGLESS.items():
        if settings.get(name, usual) == usual:
            settings.pop(name, None)
    temperature = float(settings.pop("temperature", None) or 0.0)
    do_sample = settings.pop("do_sample", None)
    if do_sample and "temperature" not in given:
        temperature = 1.0
    if do_sample is False or temperature == 0:
        temperature = 0.0
        settings = {name: value for name, value in settings.items() if name not in _DRAWING}  # they draw nothing
    unknown = [name for name in settings if name not in _PASSED_ON]
    if unknown:
        known = ", ".join(("until", "do_sample", *_ALIASES[:1], *_PASSED_ON))
        raise GptwrightError(
            f"a task asks for the generation setting '{unknown[0]}' ({settings[unknown[0]]!r}), which is not known "
            f"here; known are {known}"
        )
    stop = tuple(text for text in ([until] if isinstance(until, str) else until) if text)
    return Sampling(
        max_new_tokens=int(most[0]) if most else NEW_TOKENS, temperature=temperature, stop=stop, seed=seed, **settings
    )
