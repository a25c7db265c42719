"""Experiments: one file for each entry of `dither experiment`, or a folder where it takes more."""
