"""PyTorch and JAX on the CPU: kernels that numba compiles on first use."""
