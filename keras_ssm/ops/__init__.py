"""What is computed: one function for each op, the same on every backend.

Sizes: `b` batch, `l` length, `d` channels, `h` heads, `p` channels of a head,
`n` state, `g` groups, `r` rank, `k` width of a convolution, `q` chunk.
Capitals `A B C D` are the paper's matrices. Channels come last, always.
"""

from keras_ssm.ops.causal_conv1d import causal_conv1d, causal_conv1d_step
from keras_ssm.ops.discretize import discretize, discretize_dplr
from keras_ssm.ops.dispatch import show_implementations, use_implementation
from keras_ssm.ops.fft_conv import fft_conv
from keras_ssm.ops.linear_scan import linear_scan, linear_scan_step
from keras_ssm.ops.mamba3_scan import mamba3_scan, mamba3_scan_step
from keras_ssm.ops.selective_scan import selective_scan, selective_scan_step
from keras_ssm.ops.ssd import ssd, ssd_step
from keras_ssm.ops.ssm_conv import s4_conv_kernel, s4d_conv_kernel
from keras_ssm.ops.ssm_scan import ssm_scan, ssm_scan_step

__all__ = [
    "causal_conv1d",
    "causal_conv1d_step",
    "discretize",
    "discretize_dplr",
    "fft_conv",
    "linear_scan",
    "linear_scan_step",
    "mamba3_scan",
    "mamba3_scan_step",
    "s4_conv_kernel",
    "s4d_conv_kernel",
    "selective_scan",
    "selective_scan_step",
    "show_implementations",
    "ssd",
    "ssd_step",
    "ssm_scan",
    "ssm_scan_step",
    "use_implementation",
]
