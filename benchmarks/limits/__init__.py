"""What no implementation can beat: a C kernel, and a GPU's own rates."""
