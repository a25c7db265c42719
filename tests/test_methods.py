"""The spelling of estimators: derived from the classes, one for each."""

import inspect
import subprocess
import sys

import pytest
from torch import nn

import dither
from dither import estimators, methods


def test_every_exported_estimator_has_a_name():
    exported = {v for v in vars(estimators).values() if inspect.isclass(v) and issubclass(v, dither.Estimator)}
    assert {methods.class_of(name) for name in methods.names()} == exported - {dither.Estimator, dither.PerNode} | {dither.Auto}


@pytest.mark.parametrize("method", [*methods.every(), "score-function:optimal,samples=10", "reinmax:temperature=1.2",
                                    "gumbel-softmax:hard=false,temperature=0.5"])  # fmt: skip
def test_a_spelling_is_what_it_spells(method):
    kind, arguments = methods.parse(method)
    assert methods.spelling(kind, **arguments) == method
    assert set(methods.slug(method)) <= set("abcdefghijklmnopqrstuvwxyz0123456789-.")


def test_arguments_reach_the_class():
    net = nn.Sequential(nn.Linear(2, 2), dither.Bernoulli(), nn.Linear(2, 1))
    estimator = methods.build("score-function:leave-one-out,samples=3", net)
    assert estimator.samples == 3 and type(estimator.baseline).__name__ == "LeaveOneOut"
    assert methods.build("score-function:leave-one-out", net, samples=1).samples == 2
    assert methods.build("gumbel-softmax:hard=false", net, samples=4).hard is False
    assert methods.build("reinmax:temperature=1.2", net).temperature == 1.2


@pytest.mark.parametrize(
    ("method", "words"),
    [("score", "there is no estimator 'score'"), ("dis-arm", "perhaps you meant disarm"),
     ("score-function:best", "'best' is no word that ScoreFunction knows; it takes mean, optimal"),
     ("score-function:baseline=mean", "write 'mean' alone"), ("disarm:temperature=1", "DisARM takes no temperature="),
     ("disarm:samples=2,samples=3", "gives samples twice"), ("score-function:mean,optimal", "gives baseline twice"),
     ("gumbel-softmax:hard=False", "hard is 'False', it must be true or false"),
     ("disarm:samples=ten", "samples is 'ten', it must be an integer"), ("rebar:temperature=warm", "it must be a number"),
     ("exact:", None), ("", "there is no estimator ''")],
)  # fmt: skip
def test_what_means_nothing_is_refused(method, words):
    if words is None:
        methods.parse(method)
        return
    with pytest.raises(ValueError) as refused:
        methods.parse(method)
    assert words in str(refused.value)


def test_the_names_need_no_torch():
    code = "import sys; from dither import methods; assert 'disarm' in methods.names() and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
