"""Seeing what a model remembers.

`record` runs a model once and keeps what its selective scans did: which steps
they wrote to their states, and what they kept. `conv_kernel`,
`frequency_response` and `spectrum` look at layers whose dynamics are the same
at every step. All of these give NumPy arrays. `plot_...` draw them, and need
matplotlib; `colored_text` makes an HTML page, and needs nothing.
"""

from keras_ssm.visualize.attention import implied_attention
from keras_ssm.visualize.figures import (
    plot_attention,
    plot_kernels,
    plot_memory,
    plot_spectrum,
)
from keras_ssm.visualize.recording import record
from keras_ssm.visualize.scan import Scan
from keras_ssm.visualize.systems import (
    Spectrum,
    conv_kernel,
    frequency_response,
    spectrum,
)
from keras_ssm.visualize.text import ColoredText, colored_text

__all__ = [
    "ColoredText",
    "Scan",
    "Spectrum",
    "colored_text",
    "conv_kernel",
    "frequency_response",
    "implied_attention",
    "plot_attention",
    "plot_kernels",
    "plot_memory",
    "plot_spectrum",
    "record",
    "spectrum",
]
