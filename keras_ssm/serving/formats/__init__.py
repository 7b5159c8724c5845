"""Formats of exported files: how to write one, and how to run it.

Each module has

- `IMPLEMENTATION`, that of the ops in it;
- `check(path, endpoints, layers)`, which raises unless such a file can be
  called so, have these endpoints and hold these layers;
- `write(model, endpoints, path)`;
- `load(path, endpoints)`, which gives the same functions of the same arguments
  by name, computed by the file.
"""

from keras_ssm.serving.formats import litert, onnx, openvino, saved_model

FORMATS = {
    "tf_saved_model": saved_model,
    "onnx": onnx,
    "litert": litert,
    "openvino": openvino,
}
