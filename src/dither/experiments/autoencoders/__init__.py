"""Autoencoders with a hard latent code, trained by every estimator: `binary` units, or `categorical` ones.

Both train on `training`, in steps, as resumable run folders; `variance` measures gradients.
"""
