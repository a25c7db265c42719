"""Metrics of samples and chains, to evaluate a trained model. Tensors in, numbers out; nothing else of dither."""

from dither.metrics._classes import ClassEntropy, class_entropy, class_histogram, class_switches
from dither.metrics._csl import csl
from dither.metrics._discrete import all_states, conditional, kl, transition_matrix
from dither.metrics._distances import nearest, squared_distances
from dither.metrics._feature_files import feature_net, from_bytes, hash, to_bytes
from dither.metrics._feature_training import train_feature_net
from dither.metrics._features import FeatureNet
from dither.metrics._manifold import Manifold, expected_coverage, manifold
from dither.metrics._memorisation import Memorisation, memorisation
from dither.metrics._mixing import (
    Mixing,
    autocorrelation,
    effective_sample_size,
    integrated_autocorrelation_time,
    mixing,
    split_r_hat,
)
from dither.metrics._mmd import KID, MMD, kid, median_bandwidth, mmd
from dither.metrics._parzen import Parzen, choose_sigma, parzen
from dither.metrics._references import k_means, pca_reconstructions, reference_rows
from dither.metrics._stationary import Structure, mixing_time_scale, second_eigenvalue, stationary, structure

__all__ = [
    "KID",
    "MMD",
    "ClassEntropy",
    "FeatureNet",
    "Manifold",
    "Memorisation",
    "Mixing",
    "Parzen",
    "Structure",
    "all_states",
    "autocorrelation",
    "choose_sigma",
    "class_entropy",
    "class_histogram",
    "class_switches",
    "conditional",
    "csl",
    "effective_sample_size",
    "expected_coverage",
    "feature_net",
    "from_bytes",
    "hash",
    "integrated_autocorrelation_time",
    "k_means",
    "kid",
    "kl",
    "manifold",
    "median_bandwidth",
    "memorisation",
    "mixing",
    "mixing_time_scale",
    "mmd",
    "nearest",
    "parzen",
    "pca_reconstructions",
    "reference_rows",
    "second_eigenvalue",
    "split_r_hat",
    "squared_distances",
    "stationary",
    "structure",
    "to_bytes",
    "train_feature_net",
    "transition_matrix",
]
