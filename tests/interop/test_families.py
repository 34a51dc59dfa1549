"""Every family, at usual and awkward settings: in with equal logits, out again with every bit."""

import json

import pytest
import torch
from safetensors.torch import load_file

import gptwright as gw
from gptwright.interop.family import known_families
from gptwright.interop.hf_export import export_hf
from gptwright.interop.importing import import_run
from gptwright.interop.trained import Trained

from .peers import CASES, peer, saved

VOCAB, LENGTH, PADDING = 61, 24, 7


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    theirs = peer(*CASES[request.param])
    saved(theirs, folder / "hf")
    imported = import_run(folder / "hf", folder / "run")
    return theirs, gw.load(folder / "run"), imported, folder


def close(ours, theirs):
    """The goal: 1e-4 absolute and 1e-5 of the range of the logits."""
    spread = float(theirs.max() - theirs.min())
    assert float((ours - theirs).abs().max()) <= min(1e-4, 1e-5 * spread)


@torch.no_grad()
def test_logits_and_greedy_ids_are_equal(case):
    theirs, ours, _, _ = case
    ids = torch.randint(0, VOCAB, (2, LENGTH), generator=torch.Generator().manual_seed(1))
    close(ours(ids), theirs(ids).logits)
    expected = theirs.generate(
        ids[:1, :9],
        attention_mask=torch.ones(1, 9),
        max_new_tokens=64,
        do_sample=False,
        pad_token_id=0,
        eos_token_id=None,
    )
    assert ours.generate(input_ids=ids[:1, :9], max_new_tokens=64, do_sample=False).tolist() == expected.tolist()


@torch.no_grad()
def test_left_padding_and_packing_are_equal(case):
    theirs, ours, _, _ = case
    ids = torch.randint(0, VOCAB, (2, LENGTH), generator=torch.Generator().manual_seed(2))
    mask = torch.ones(2, LENGTH, dtype=torch.bool)
    mask[0, :PADDING] = False
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    padded = theirs(ids, attention_mask=mask.long(), position_ids=positions).logits
    close(ours(ids, padding_mask=mask)[mask], padded[mask])
    segments = torch.ones(1, LENGTH, dtype=torch.int64)
    segments[:, PADDING:] = 2
    packed = ours(ids[1:], segments=segments)  # each document as if it stood alone
    close(packed[:, :PADDING], theirs(ids[1:, :PADDING]).logits)
    close(packed[:, PADDING:], theirs(ids[1:, PADDING:]).logits)


@torch.no_grad()
def test_an_export_has_every_bit_of_the_original(case):
    theirs, _, imported, folder = case
    exported = export_hf(Trained.of_run(folder / "run"), folder / "out")
    before, after = (load_file(folder / place / "model.safetensors") for place in ("hf", "out"))
    assert before.keys() == after.keys() == imported.found.places.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert (
        exported.model_type
        == imported.found.family
        == json.loads((folder / "hf/config.json").read_text())["model_type"]
    )
    again = type(theirs).from_pretrained(folder / "out")
    ids = torch.randint(0, VOCAB, (1, LENGTH))
    assert torch.equal(again(ids).logits, theirs(ids).logits)


def test_settings_are_understood_and_survive_new_words(case):
    _, ours, imported, _ = case
    assert [word for word in imported.found.unknown if word not in ("num_key_value_heads", "attention_bias")] == []
    family = known_families()[imported.found.family]
    assert family.misfits(ours.config) == []
    written = family.write(ours.config)
    assert written["model_type"] == family.MODEL_TYPE
    assert json.loads(json.dumps(written)) == written


@torch.no_grad()
def test_new_words_mean_the_same_to_transformers(case):
    """Not the words of the original: those that we would write for a model of our own."""
    theirs, ours, _, folder = case
    trained = Trained.of_run(folder / "run")
    fresh = Trained(ours.config, trained.tensors)
    family = json.loads((folder / "hf/config.json").read_text())["model_type"]
    export_hf(fresh, folder / "fresh", family=family)
    again = type(theirs).from_pretrained(folder / "fresh")
    ids = torch.randint(0, VOCAB, (1, LENGTH))
    close(again(ids).logits, theirs(ids).logits)
