"""What `sequential_pixels.py` and `raw_audio.py` share.

`idx` reads images and `audio` recordings, `networks` builds a stack of blocks
of one kind, `training` trains it within a budget of seconds and writes what
came out; `training_options` are its arguments. From the `text` example come the
clock, the picture and files that appear whole.
"""
