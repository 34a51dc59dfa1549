"""Exactly the law that a component breaks is named; what rests on it stays open."""

import inspect
import re

import pytest

from gptwright.check.laws import LAWS, RESTS_ON
from gptwright.check.run import Verdict, judge
from gptwright.check.subject import SLOTS, subjects

from . import broken

EXPECTED = {name: law.split(", ") for law, name in re.findall(r"\n# ([\w, ]+)\nclass (\w+)", inspect.getsource(broken))}
WORDS = {
    "Raises": r"^ValueError: the kernel is asleep \(broken\.py:\d+\)$",
    "Narrows": r"^Narrows \(layers\.0\.attention\) returns shape \(2, 150, 31\) for inputs of \(2, 150, 32\)$",
    "ReturnsWeightsToo": r"returns tuple, and must return one tensor$",
    "CountsItsCalls": r"^a batch, before and after a larger one: the largest relative difference is \d",
    "Peeks": r"^outputs of the tokens before 1 when token 1 is changed: the largest .*, allowed is 1e-05$",
    "NormOverTokens": r"^outputs of the tokens before 1 when token 1 is changed: ",
    "NothingForPadding": r"^left-padded: outputs of NothingForPadding .* at padding: \d+ of \d+ values are not finite$",
    "SeesPadding": r"^left-padded, row 0 against the row alone: ",
    "MixesTokens": r"^left-padded, row 0 against the row alone: ",
    "CountsPadding": r"^left-padded, row 0 against the row alone: ",
    "SeesOtherDocuments": r"^a document of \d+ tokens, packed with others, against the document alone: ",
    "LearnsTwiceFromPaddedRows": r"documents alone: the gradient of [\w.]+ differs by .*, allowed is 1e-04$",
    "Idles": r"^no gradient reaches layers\.0\.attention\.unused, layers\.1\.attention\.unused$",
    "Forgets": r"^one token at a time: ",
    "ForgetsInPaddedBatches": r"^left-padded rows in pieces, row 0: ",
    "SelectsWrongly": r"selected",
    "TruncatesWrongly": r"^4 tokens truncated to 2: ",
    "TakesRowsForEquals": r"^three rows of a decoder: ",
    "FastAndWrong": r"^fast path, 1000 tokens: ",
    "Untraceable": r"^\w+: .* \(broken\.py:\d+\)$",
    "CutThroughANorm": r"^the sum of 2 slices of .*:CutThroughANorm \(layers\.0\.feed_forward\): ",
    "Widens": r"^Widens \(layers\.0\.attention\) returns float32 for inputs in bfloat16$",
    "HidesItsWeights": r"^a model with the state_dict of another: ",
    "ReadsEmptyMemory": r"^logits where torch.empty leaves NaN: ",
    "ClaimsFewParameters": r"^num_params of .*:ClaimsFewParameters \(layers\.0\.attention\) says 1,000, and 3,072 are",
    "ClaimsManyFlops": r"^at 1 tokens the settings say [\d,]+ forward FLOPs a token, and only [\d,]+ are run; ",
    "ClaimsFewFlops": r"flops_per_token must count all of them$",
    "ClaimsNoState": r"^state_bytes of .*:ClaimsNoState says 0 for 3 rows .* the state holds 49,152$",
    "KnowsNoBias": r'^with \{.*"bias": true.*\}: ValueError: biases are out of fashion \(broken\.py:\d+\)$',
}
QUICK = [law for law in LAWS if law.name != "compiled equals eager"]
LATE = {"Untraceable"}
"""Those that only a compiler finds."""


def verdicts(name: str) -> list[Verdict]:
    settings = {"n_heads": 4} if issubclass(getattr(broken, name), broken.Softmax) else {}
    subject = subjects(f"{broken.__name__}:{name}", settings, {})[0]
    return list(judge(subject, laws=LAWS if name in LATE else QUICK))


def test_every_law_has_a_component_that_breaks_it():
    found = {law for laws in EXPECTED.values() for law in laws}
    assert found == {law.name for law in LAWS} | {"works beside other parts"}


def test_every_slot_has_a_component_that_breaks_a_law():
    bases = {base.__name__ for name in EXPECTED for base in getattr(broken, name).__mro__}
    assert bases >= {slot.base.rpartition(":")[2] for slot in SLOTS.values()}


@pytest.mark.parametrize("name", EXPECTED)
def test_the_law_that_is_broken_is_named_with_its_figures(name):
    found = verdicts(name)
    told = {verdict.law: verdict.words for verdict in found if verdict.outcome == "broken"}
    assert list(told) == EXPECTED[name], told
    assert re.search(WORDS[name], told[EXPECTED[name][0]]), told
    assert all(verdict.words.startswith("rests on: ") for verdict in found if verdict.outcome == "open")


def test_a_sound_component_keeps_them_all():
    assert {verdict.outcome for verdict in verdicts("Plain")} == {"kept"}


def test_laws_rest_on_earlier_ones():
    seen: set = set()
    for law, others in RESTS_ON.items():
        assert set(others) <= seen
        seen.add(law)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)
def test_every_law_says_what_it_promises(law):
    assert re.fullmatch(r"[A-Z`][^\n]{20,119}\.", law.promise)
