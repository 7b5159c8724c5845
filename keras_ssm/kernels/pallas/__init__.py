"""Kernels in Pallas: JAX on a GPU, through Triton, and on a TPU."""
