"""Models that leave Python: exported files, and streams."""

from keras_ssm.serving.export import export
from keras_ssm.serving.stream import Stream

__all__ = ["Stream", "export"]
