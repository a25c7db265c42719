"""Spurious modes of denoising auto-encoders, on a spiral in the plane: `dither experiment spurious-modes`.

experiment    what is compared, the table and the picture
config        the options, and the ways of training
models        the auto-encoders, trained, and the data's own E[x | x~]
evaluation    where a model's map leads, and what its chains do
"""
