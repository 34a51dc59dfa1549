"""The settings of a draw: what is taken, and the sentence for what has no meaning."""

import math

import numpy as np
import pytest

from gptwright.errors import GptwrightError
from gptwright.generate.sampling import Sampling

VOCAB = 20


def test_what_has_a_meaning_is_taken():
    for settings in (
        {},
        {"max_new_tokens": 0, "temperature": 0},
        {"temperature": 2, "top_k": 99, "top_p": 1, "min_p": 0.0, "typical_p": 0.2, "seed": -(10**5000)},
        {"top_k": np.int64(3), "temperature": np.float32(0.5), "seed": np.int32(4)},
        {"repetition_penalty": 0.5, "presence_penalty": -2, "frequency_penalty": 2},
        {"logit_bias": {0: -math.inf, 19: 100.0}, "stop_ids": (0, 19), "stop": ("a", " "), "logprobs": 0},
        {"max_new_tokens": 3, "min_new_tokens": 3, "ignore_end": True},
    ):
        Sampling(**settings).check(VOCAB)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"max_new_tokens": -1}, "max_new_tokens is -1 and cannot be negative; use 0 or more"),
        ({"max_new_tokens": 2.5}, "max_new_tokens is 2.5 and must be a whole number"),
        ({"min_new_tokens": -1}, "min_new_tokens is -1 and cannot be negative"),
        ({"min_new_tokens": None}, "min_new_tokens is None and must be a whole number"),
        ({"temperature": -0.5}, "temperature is -0.5 and must be 0 or more; 0 takes the likeliest token"),
        ({"temperature": math.nan}, "temperature is nan and must be"),
        ({"temperature": math.inf}, "temperature is inf and must be"),
        ({"temperature": "hot"}, "temperature is 'hot' and must be a number"),
        ({"temperature": True}, "temperature is True and must be a number"),
        ({"top_k": 0}, "top_k is 0 and must be at least 1; leave it out to allow every token"),
        ({"top_k": -3}, "top_k is -3 and must be at least 1"),
        ({"top_p": 0}, "top_p is 0 and must be above 0 and at most 1; leave it out"),
        ({"top_p": 1.1}, "top_p is 1.1 and must be above 0"),
        ({"top_p": math.nan}, "top_p is nan and must be above 0"),
        ({"min_p": -0.1}, "min_p is -0.1 and must be from 0 to 1"),
        ({"min_p": 1.1}, "min_p is 1.1 and must be from 0 to 1"),
        ({"typical_p": 0.0}, "typical_p is 0.0 and must be above 0 and at most 1"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0 and must be above 0, and finite; 1 is no penalty"),
        ({"repetition_penalty": math.inf}, "repetition_penalty is inf"),
        ({"presence_penalty": 2.1}, "presence_penalty is 2.1 and must be from -2 to 2; 0 is no penalty"),
        ({"frequency_penalty": -3}, "frequency_penalty is -3 and must be from -2 to 2"),
        ({"logprobs": -1}, "logprobs is -1 and cannot be negative; 0 gives the written token's alone"),
        ({"seed": 1.5}, "seed is 1.5 and must be a whole number"),
        ({"stop_ids": (3, 20)}, "stop_ids names token 20, and the model's ids are 0 to 19"),
        ({"stop_ids": ("x",)}, "stop_ids names token 'x'"),
        ({"logit_bias": {-1: 1.0}}, "logit_bias names token -1, and the model's ids are 0 to 19"),
        ({"logit_bias": {1: math.nan}}, "logit_bias of token 1 is nan and must be a finite number"),
        ({"logit_bias": {1: math.inf}}, "logit_bias of token 1 is inf"),
        ({"stop": ("a", "")}, "stop holds an empty string"),
        ({"stop": "ab"}, "stop is the string 'ab' and must be a list of strings; write ['ab']"),
        ({"stop": (3,)}, "stop holds 3 and must hold strings; give token ids in stop_ids"),
        ({"min_new_tokens": 5, "max_new_tokens": 4}, "min_new_tokens is 5 and max_new_tokens 4: at least cannot be"),
        ({"temperature": 0, "top_k": 5}, "temperature is 0, which takes the likeliest token, and top_k is 5"),
        ({"temperature": 0, "top_p": 0.9}, "and top_p is 0.9, which says what to draw from: leave one of them out"),
        ({"temperature": 0.0, "min_p": 0.1}, "and min_p is 0.1"),
        ({"temperature": 0.0, "typical_p": 0.1}, "and typical_p is 0.1"),
    ],
    ids=repr,
)
def test_what_has_none_is_refused_in_a_sentence(settings, sentence):
    with pytest.raises(GptwrightError) as error:
        Sampling(**settings).check(VOCAB)
    assert sentence in str(error.value)
