"""Packed documents and padding change nothing: the same logits as each document alone.

Run it: python examples/packing_and_padding.py
"""

import torch

import gptwright as gw


def main() -> None:
    """Feed two documents alone, padded on either side, and packed into one row."""
    config = gw.ModelConfig.from_dict(
        {
            "vocab_size": 65,
            "d_model": 64,
            "n_layers": 3,
            "max_seq_len": 32,
            "blocks": {
                "near": {"attention": {"type": "local", "n_heads": 4, "window": 4}},
                "far": {"attention": {"type": "softmax", "n_heads": 4}},
                "flat": {"attention": {"type": "linear", "n_heads": 4}},
            },
            "position": "rotary",
        }
    )
    torch.manual_seed(0)
    model = gw.GPT(config).eval()
    first, second = torch.randint(65, (1, 7)), torch.randint(65, (1, 5))
    with torch.no_grad():
        alone = torch.cat((model(first), model(second)), 1)  # (1, 12, V)
        packed = packed_together(model, first, second)
        padded = padded_to_one_length(model, first, second)
    print(f"packed into one row: largest difference {(packed - alone).abs().max():.1e}")
    print(f"padded in a batch:   largest difference {(padded - alone).abs().max():.1e}")


def packed_together(model: gw.GPT, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return the logits of both documents in one row; ``segments`` says which token belongs to which."""
    segments = torch.tensor([[1] * first.shape[1] + [2] * second.shape[1]])
    return model(torch.cat((first, second), 1), segments=segments)


def padded_to_one_length(model: gw.GPT, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return the logits of both documents from a batch of two rows, the shorter one padded on the left."""
    missing = first.shape[1] - second.shape[1]
    ids = torch.cat((first, torch.nn.functional.pad(second, (missing, 0))), 0)  # (2, 7)
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[1, :missing] = False
    logits = model(ids, padding_mask=mask)
    return torch.cat((logits[:1], logits[1:, missing:]), 1)


if __name__ == "__main__":
    main()
