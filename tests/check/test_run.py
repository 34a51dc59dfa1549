"""The report of a check: one verdict a law, the worst of all examples, and nothing left changed behind it."""

import pytest
import torch

from gptwright.check import run
from gptwright.check.forward import shapes_are_kept, the_future_is_unseen
from gptwright.check.laws import LAWS, Law

from ..contracts import strangers
from . import broken

HERE = broken.__name__


def breaks_with_sinks(model):
    """A law for a test: no attention of the model has sinks, which is as good a rule as any."""
    if model.layers[0].attention.config.sinks:
        raise run.Broken("it has sinks")
    return f"{model.layers[0].attention.config.kv_heads()} heads"


@pytest.fixture
def few_laws(monkeypatch):
    monkeypatch.setattr(run, "LAWS", (Law(shapes_are_kept), Law(breaks_with_sinks)))
    monkeypatch.setattr(run.judge, "__defaults__", (run.judge.__defaults__[0], run.LAWS))


def test_the_worst_example_speaks(few_laws):
    report = run.check("softmax")
    assert [verdict.outcome for verdict in report.verdicts] == ["kept", "broken", "kept"]
    (verdict,) = report.broken
    assert verdict.words == "it has sinks"
    assert verdict.settings == "n_heads=4, n_kv_heads=2, scale=0.3, softcap=5.0, sinks=True"
    assert len(report.examples) == 4
    told = report.to_dict()
    assert (told["component"], told["slot"], told["kept"], told["d_model"]) == ("softmax", "attention", False, 32)
    assert told["laws"][1] == {
        "law": "breaks with sinks",
        "promise": "A law for a test: no attention of the model has sinks, which is as good a rule as any.",
        "outcome": "broken",
        "words": "it has sinks",
        "settings": "n_heads=4, n_kv_heads=2, scale=0.3, softcap=5.0, sinks=True",
    }


def test_notes_of_all_examples_are_told_once(few_laws):
    report = run.check("softmax", {"n_heads": 4})
    assert [verdict.words for verdict in report.verdicts] == ["", "4 heads", ""]
    assert not report.broken


def test_each_law_is_told_before_it_is_held(few_laws):
    told = []
    run.check("softmax", {"n_heads": 4}, tell=told.append)
    assert told == ["shapes are kept", "breaks with sinks", "works beside other parts"]


def test_a_law_that_rests_on_an_open_one_stays_open():
    (subject,) = run.subjects(f"{HERE}:Raises", {}, {})
    found = list(run.judge(subject))
    assert [verdict.outcome for verdict in found] == ["broken"] + ["open"] * len(LAWS)
    assert found[2].words == "rests on: calls are independent"


def test_a_check_changes_nothing_outside(few_laws):
    before = torch.get_rng_state(), torch.get_num_threads(), torch.empty
    run.check("softmax", {"n_heads": 4})
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (torch.get_num_threads(), torch.empty) == before[1:]


def test_the_exception_behind_a_broken_law_is_kept_for_debugging():
    (subject,) = run.subjects(f"{HERE}:Raises", {}, {})
    verdict = next(run.judge(subject))
    assert isinstance(verdict.error, ValueError)
    assert verdict.error.__traceback__ is not None
    assert next(run.judge(subject, laws=[Law(the_future_is_unseen)])).outcome == "broken"


@pytest.mark.parametrize("cls", ["Minimal", "Louder"])
def test_classes_from_outside_keep_all_laws(cls):
    settings = {"n_heads": 4, "n_kv_heads": 2} if cls == "Louder" else {}
    report = run.check(f"{strangers.__name__}:{cls}", settings)
    assert [(verdict.law, verdict.words) for verdict in report.broken] == []
    assert report.seconds < 60
