"""Linear layers and embeddings whose matrix has few bits; for inference alone.

Their names in a state dict: `packed.q`, `packed.scale`, at 4 bits `packed.offset` (see `gptwright.ops.packed`), and
`bias` where there is one. A tied head and embedding hold one and the same `packed`.
"""

from typing import Any

import torch
from torch import Tensor, nn

from gptwright.nn.base import keeping_dtypes
from gptwright.ops.packed import Packed, unpack
from gptwright.ops.quantized import embedding, linear


class PackedWeight(nn.Module):
    """Holds a packed matrix as buffers, and the dtype that is computed in, which alone changes with the model's."""

    def __init__(self, packed: Packed, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("q", packed.q)
        self.register_buffer("scale", packed.scale)
        self.register_buffer("offset", packed.offset)
        self.register_buffer("like", torch.empty(0, dtype=dtype, device=packed.q.device), persistent=False)
        self._whole: Packed | None = None

    @property
    def packed(self) -> Packed:
        """The matrix."""
        if self._whole is None:
            q, scale, offset = (self._buffers[name] for name in ("q", "scale", "offset"))
            assert q is not None
            assert scale is not None
            self._whole = Packed(q, scale, offset)
        return self._whole

    @property
    def dtype(self) -> torch.dtype:
        """What the layer computes in where its input does not say."""
        like = self._buffers["like"]
        assert like is not None
        return like.dtype

    @property
    def numel(self) -> int:
        """Elements of the matrix."""
        rows, columns = self.packed.shape
        return rows * columns

    def unpacked(self) -> Tensor:
        """Return the matrix in the layer's dtype."""
        return unpack(self.packed, self.dtype)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self._whole = None
        with keeping_dtypes(self, ("scale", "offset")):
            return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._whole = None  # kernels keep copies in layouts of their own with it
        super()._load_from_state_dict(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_whole": None}  # a copy makes its own


class QuantizedLinear(nn.Module):
    """A linear layer whose matrix (out, in) has few bits."""

    def __init__(self, packed: PackedWeight, bias: Tensor | None = None) -> None:
        super().__init__()
        self.packed = packed
        self.out_features, self.in_features = packed.packed.shape
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    @property
    def weight(self) -> Tensor:
        """The matrix, unpacked anew: for parts that use it without calling the layer."""
        return self.packed.unpacked()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (..., in) to (..., out)."""
        return linear(x, self.packed.packed, self.bias)

    def extra_repr(self) -> str:
        """Say the sizes, as `nn.Linear` does."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class QuantizedEmbedding(nn.Module):
    """A table of vectors whose elements have few bits."""

    def __init__(self, packed: PackedWeight) -> None:
        super().__init__()
        self.packed = packed
        self.num_embeddings, self.embedding_dim = packed.packed.shape

    @property
    def weight(self) -> Tensor:
        """The table, unpacked anew."""
        return self.packed.unpacked()

    def forward(self, ids: Tensor) -> Tensor:
        """Return the vectors (..., width) of ``ids``.

        Raises:
            IndexError: an id is not in the table.
        """
        return embedding(ids, self.packed.packed, self.packed.dtype)

    def extra_repr(self) -> str:
        """Say the sizes, as `nn.Embedding` does."""
        return f"{self.num_embeddings}, {self.embedding_dim}"
