"""Formats of exported files: how to write one, and how to run it.

Each module has

- `check(path, endpoints)`, which raises unless such a file can be called so
  and have these endpoints;
- `write(model, endpoints, path)`;
- `load(path, endpoints)`, which gives the same functions of the same arguments
  by name, computed by the file.
"""

from keras_ssm.serving.formats import saved_model

FORMATS = {"tf_saved_model": saved_model}
