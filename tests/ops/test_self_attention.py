import pytest
import torch

import gptwright.ops.self_attention as module
from gptwright.ops.attention import Scoring, attention_reference
from gptwright.ops.reference import reference_paths
from gptwright.ops.self_attention import first_keys, self_attention
from gptwright.ops.sequence import Sequence


def described(kind: str, length: int) -> Sequence:
    index = torch.arange(length).expand(2, length)
    if kind == "plain":
        return Sequence.plain(2, length)
    if kind == "left-padded":
        return Sequence.padded(index >= torch.tensor([[0], [length // 3]]))
    if kind == "packed":
        return Sequence.packed((index + torch.tensor([[0], [31]])) // 150 + 1)
    return Sequence.packed((index // 90 + 1) * (index % 9 > 0))  # padding inside documents too


@pytest.mark.parametrize("length", [1, 2, 63, 65, 1000])
@pytest.mark.parametrize("kind", ["plain", "left-padded", "packed", "gaps"])
@pytest.mark.parametrize("scored", [False, True])
def test_blocks_equal_the_dense_mask(agree, draw, length, kind, scored):
    seq = described(kind, length)
    inputs = draw((2, 4, length, 6), (2, 2, length, 6), (2, 2, length, 5), (4,))

    def mixed(q, k, v, sinks=None):
        scoring = Scoring(4.0, torch.tensor([0.5, 0.1, 0.02, 0.3]), sinks) if scored else Scoring()
        return self_attention(q, k, v, seq, scoring=scoring) * seq.real[:, None, :, None]

    def reference(*inputs):
        with reference_paths():
            return mixed(*inputs)

    agree(mixed, reference, inputs[: 3 + scored])


def test_the_mask_of_the_batch_is_the_definition(draw):
    seq = described("packed", 300)
    q, k, v = draw(*[(2, 2, 300, 6)] * 3)
    torch.testing.assert_close(self_attention(q, k, v, seq), attention_reference(q, k, v, seq.visible()))


def test_blocks_begin_where_their_documents_do():
    segments = torch.tensor([[1] * 130 + [2] * 200 + [3] * 70, [0] * 64 + [1] * 336])
    assert first_keys(Sequence.packed(segments)) == (0, 0, 0, 0, 0, 0, 0)
    assert first_keys(Sequence.packed(segments[:1])) == (0, 0, 0, 128, 128, 128, 320)


def test_no_keys_of_other_documents_are_met(draw, monkeypatch):
    """Blocks look where they are told to; with the first keys wrong, the result is."""
    seq = Sequence.packed((torch.arange(300) // 150 + 1)[None])
    q, k, v = draw(*[(1, 2, 300, 6)] * 3)
    expected = self_attention(q, k, v, seq)
    monkeypatch.setattr(module, "first_keys", lambda seq: (0, 64, 128, 192, 256))
    assert (self_attention(q, k, v, seq) - expected).abs().max() > 0.1
