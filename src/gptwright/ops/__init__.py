"""Mathematics: pure functions on tensors, a readable reference beside each fast path."""
