"""What every face of a whole model must keep, whatever design it shows."""

import torch


def assert_causal(model, ids):
    """No logits change when a later token does."""
    other = ids.clone()
    other[:, -1] = (ids[:, -1] + 1) % model.config.vocab_size
    with torch.no_grad():
        first, second = model.eval()(ids), model(other)
    torch.testing.assert_close(first[:, :-1], second[:, :-1])
    assert not torch.allclose(first[:, -1], second[:, -1])


def assert_cached_is_uncached(model, ids, new=6):
    """Logits with decode states, a prompt and then one token at a time, are those of whole forward passes."""
    states, whole = model.eval().init_states(batch=len(ids), length=ids.shape[1]), ids
    with torch.no_grad():
        pieces = [model(piece, states=states) for piece in ids.split([2, *[1] * (ids.shape[1] - 2)], 1)]
        torch.testing.assert_close(torch.cat(pieces, 1), model(ids), atol=1e-5, rtol=1e-4)
        for _ in range(new):
            whole = torch.cat((whole, model.eval()(whole)[:, -1:].argmax(-1)), 1)
    assert torch.equal(model.generate(ids, new, do_sample=False), whole)


def assert_drops_in_training_only(model, ids):
    """Two passes differ in training and are equal in eval mode."""
    torch.manual_seed(0)
    with torch.no_grad():
        model.train()
        assert not torch.equal(model(ids), model(ids))
        model.eval()
        assert torch.equal(model(ids), model(ids))


def assert_reads_the_end_of_a_long_prompt(model, ids):
    """A prompt longer than the context is returned whole, continued from its end."""
    limit = model.config.max_seq_len
    assert ids.shape[1] > limit
    found = model.generate(ids, 3, do_sample=False)
    assert torch.equal(found[:, : ids.shape[1]], ids)
    assert torch.equal(found[:, -3 - limit :], model.generate(ids[:, -limit:], 3, do_sample=False))
