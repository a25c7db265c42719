"""`dither experiment`: the tables and figures of the papers, made again."""

from __future__ import annotations

from collections.abc import Sequence

from dither.cli import catalogue

EXPERIMENTS = {
    "single-node": (
        "dither.experiments.single_node",
        "one categorical node, a quadratic cost: exact bias and variance of every estimator",
    ),
    "polynomial": (
        "dither.experiments.polynomial",
        "128 categorical nodes under a polynomial cost: the loss that every estimator reaches",
    ),
    "blend-error": (
        "dither.experiments.blend_error",
        "the exact error of Blend beside its parents', on nets of one to three layers",
    ),
    "advice": (
        "dither.experiments.advice",
        "what a short audit recommends on random nets with costs of four types, judged by a long one",
    ),
    "variance-units": (
        "dither.experiments.variance_units.experiment",
        "how the variance of every estimator's gradient grows with the number of stochastic units",
    ),
    "first-demo": (
        "dither.experiments.first_demo",
        "MNIST 784-100(binary)-10 by every estimator, at equal epochs and equal time",
    ),
    "binary-vae": (
        "dither.experiments.autoencoders.binary",
        "autoencoder with 200 binary latents by every estimator: training bound and gradient variance",
    ),
    "categorical-vae": (
        "dither.experiments.autoencoders.categorical",
        "autoencoder with a code of one-hot units by every estimator, each at its best learning rate",
    ),
    "gdae-consistency": (
        "dither.experiments.gdae_consistency.experiment",
        "the theorems of denoising auto-encoders in small spaces, exactly: counts, walkback, clamped chains, energies",
    ),
    "spurious-modes": (
        "dither.experiments.spurious_modes.experiment",
        "where a denoising auto-encoder leads to no data, trained with and without walkback",
    ),
    "gsn-digits": (
        "dither.experiments.denoising.digits",
        "denoising auto-encoders and GSNs on the embedded digits: table and pictures in minutes",
    ),
    "gsn-mnist": (
        "dither.experiments.denoising.mnist",
        "denoising auto-encoders and GSNs by their authors' recipes on MNIST, and ours, evaluated",
    ),
    "gsn-frey": (
        "dither.experiments.denoising.frey",
        "the same on the Frey faces, in place of the Toronto Face Database",
    ),
    "gsn-inpainting": (
        "dither.experiments.inpainting.experiment",
        "half-given digits completed by clamped chains, by an any-conditional model, by neighbours",
    ),
    "cartpole": (
        "dither.experiments.cartpole",
        "CartPole-v1 with hard binary hidden units by delayed-reward score gradients, with each baseline",
    ),
    "examples": (
        "dither.experiments.examples.experiment",
        "the programs of examples/, each by straight-through and unbiased estimators, audited, timed beside plain torch",
    ),
    "feature-nets": (
        "dither.experiments.feature_nets",
        "small classifiers of MNIST and digits, in whose features the metrics of samples are taken",
    ),
}


def main(arguments: Sequence[str]) -> int:
    return catalogue.main("experiment", EXPERIMENTS, arguments)
