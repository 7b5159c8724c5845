"""What `recall.py` is made of.

`tasks` draws the sequences, `models` builds and trains a stack of blocks, and
`figure` draws what was recalled.
"""
