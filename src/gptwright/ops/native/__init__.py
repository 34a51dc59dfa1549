"""Kernels of decoding in C++, compiled for this machine when first needed; where they cannot be, torch's serve."""
