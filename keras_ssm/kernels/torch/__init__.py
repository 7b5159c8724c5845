"""PyTorch anywhere: no compiler, no Triton."""
