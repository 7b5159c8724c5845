"""PyTorch on a GPU: everything of an op in one kernel, compiled by Triton."""
