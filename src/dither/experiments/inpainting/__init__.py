"""Half of an image given, the other half sampled: `dither experiment gsn-inpainting`.

experiment     what is compared, and the table
config         the options, and the sizes of networks for each data set
models         the networks, each a run folder: denoising models, and the any-conditional model
completions    the completions of every method
evaluation     what completions are worth
"""
