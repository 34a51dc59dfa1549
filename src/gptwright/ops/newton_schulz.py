"""Orthogonalising matrices by a Newton-Schulz iteration: matrix products only, no SVD.

For G = U S V^T it returns about U V^T: every singular value is pushed towards 1 and the directions stay.
The quintic step p(x) = a x + b x^3 + c x^5 acts on each singular value by itself, since
X X^T X = U S^3 V^T; the coefficients are chosen for a steep slope at 0, so small singular values grow
quickly, and settle between about 0.7 and 1.2 instead of at exactly 1, which training does not notice.

Source: Keller Jordan et al., Muon (2024), https://kellerjordan.github.io/posts/muon/

Shapes: N matrices, R rows, C columns.
"""

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""a, b, c of the quintic p(x) = a x + b x^3 + c x^5."""
EPS = 1e-7
"""Keeps a zero matrix at zero; a matrix of smaller norm than this is left small."""


def orthogonalize_reference(matrix: Tensor, steps: int = 5) -> Tensor:
    """Return about U V^T of one matrix (R, C), in float32: the formula as it is written in the source."""
    a, b, c = COEFFICIENTS
    x = matrix.float()
    x = x / (x.norm() + EPS)  # the largest singular value is now at most 1
    if matrix.shape[0] > matrix.shape[1]:
        x = x.T  # the iteration multiplies (rows, rows) matrices: make that the short side
    for _ in range(steps):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


def orthogonalize(matrices: Tensor, steps: int = 5, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return about U V^T of each matrix (N, R, C), all in one chain of batched products computed in
    ``dtype``.

    The norm is taken before rounding to ``dtype``, and each ``a x + b y`` rides along with a product
    (`baddbmm`)."""
    a, b, c = COEFFICIENTS
    norms = torch.linalg.matrix_norm(matrices, dtype=torch.float32, keepdim=True)
    x = (matrices / (norms + EPS)).to(dtype)
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT.contiguous()  # (N, C, R)
    for _ in range(steps):
        square = x @ x.mT  # (N, R, R)
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
