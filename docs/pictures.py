"""Draw which keys each query sees, by asking the component itself.

A small attention is built, and how much each output changes with each input is measured by derivatives. Nothing is
drawn from what a component claims.

Shapes: T positions, D d_model.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from gptwright import GPT, ModelConfig, Sequence

T = 24
DRAWS = 4
"""Random models and inputs that the picture averages over."""
DECADES = 1
"""Influences this many powers of ten below the largest of their row are drawn as faintly as can be."""
FAINTEST = 0.12
SIZE = 11
"""Side of a cell in pixels."""
SEGMENTS = torch.tensor([[0] * 3 + [1] * 9 + [2] * 12])
"""Padding, a document of 9 tokens and one of 12."""
SMALL: dict[str, Any] = {"vocab_size": 8, "d_model": 32, "n_layers": 1, "max_seq_len": T, "init": {"std": 0.2}}


def influence_picture(attention: Mapping[str, Any], position: str | None = None) -> str:
    """Return an SVG of what each query sees: in one document, and in two with padding before them.

    With a ``position``, of what it sees of tokens that are all alike.
    """
    panels = {
        "one document": influence(attention, position, Sequence.plain(1, T)),
        "3 of padding, then two documents": influence(attention, position, Sequence.packed(SEGMENTS)),
    }
    return _svg(panels)


def influence(attention: Mapping[str, Any], position: str | None, seq: Sequence) -> Tensor:
    """(T, T): size of the derivative of each output by each input, a mean over `DRAWS`; 0 where nothing is seen."""
    total = torch.zeros(T, T)
    for draw in range(DRAWS):
        torch.manual_seed(draw)
        part = _built(attention, position)
        x = torch.randn(1, 1 if position else T, SMALL["d_model"]).expand(1, T, -1)
        rows = torch.autograd.functional.jacobian(lambda given, part=part: part(given, seq)[0], x)  # (T, D, 1, T, D)
        total += rows[:, :, 0].square().sum((1, 3)).sqrt()
    return total / DRAWS * seq.real[0]


def _built(attention: Mapping[str, Any], position: str | None) -> Callable[[Tensor, Sequence], Tensor]:
    config = ModelConfig.from_dict({**SMALL, "attention": dict(attention), "position": position or "none"})
    model = GPT(config).eval()
    return lambda x, seq: model.layers[0].attention(model.position(x, seq), seq)


def shades(found: Tensor) -> Tensor:
    """(T, T) in 0..1: how dark each cell is, by the logarithm of its influence beside its row's largest; 0 for none."""
    relative = found / found.amax(1, keepdim=True).clamp(min=1e-30)
    dark = (1 + relative.clamp(min=1e-30).log10() / DECADES).clamp(FAINTEST, 1)
    return dark * (relative > 1e-6)


def _svg(panels: Mapping[str, Tensor]) -> str:
    side, gap, top = T * SIZE, 40, 44
    width, height = len(panels) * (side + gap), side + top + 22
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for index, (title, found) in enumerate(panels.items()):
        parts += _panel(title, shades(found), gap / 2 + index * (side + gap), top)
    return "\n".join([*parts, "</svg>\n"])


def _panel(title: str, dark: Tensor, left: float, top: float) -> list[str]:
    side = T * SIZE
    parts = [
        f'<text x="{left}" y="16" fill="#222222" font-weight="bold">{title}</text>',
        f'<text x="{left}" y="{top - 8}" fill="#555555">key →</text>',
        f'<text transform="translate({left - 6} {top + 46}) rotate(-90)" fill="#555555">← query</text>',
        f'<rect x="{left}" y="{top}" width="{side}" height="{side}" fill="#f3f3f7"/>',
    ]
    for row, column in (dark > 0).nonzero().tolist():
        parts.append(
            f'<rect x="{left + column * SIZE + 0.5}" y="{top + row * SIZE + 0.5}" width="{SIZE - 1}" '
            f'height="{SIZE - 1}" fill="#3949ab" fill-opacity="{float(dark[row, column]):.2f}"/>'
        )
    return parts
