"""How the ops are computed: one folder for each implementation.

The files in a folder are named like those in `keras_ssm/ops/`, and each has
the op's function and `unsupported`; see `keras_ssm/ops/dispatch.py`.
`border.py` is what plain implementations have in common around their
recurrence, `platforms.py` what differs between devices.
"""
