"""Kernels of S4 as products of dense matrices, on any backend."""
