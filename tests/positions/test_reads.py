"""Where runs of other kinds are made one after the other: whether Python looks at samples is seen, by whatever way it does.

Estimators that compare a net's own run with relaxed, turned or mean ones need to know (`Estimator.reading`): such runs may take
other branches. Nothing may hide it, neither compiled code nor a transform; and what is no look must not be taken for one.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import dither
from dither import exact

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # the compiler's own
F64 = torch.float64
_LINEAR, _ATTENTION = nn.Linear(4, 2), nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
_RECURRENT, _SPARSE = nn.LSTM(4, 3, batch_first=True), torch.eye(4).to_sparse()


def _packed(h: Tensor) -> Tensor:
    lengths = h.detach().sum(1).long().clamp(1)
    packed = nn.utils.rnn.pack_padded_sequence(torch.ones(5, 4, 1), lengths, batch_first=True, enforce_sorted=False)
    return h * len(packed.batch_sizes)


UNSEEN: dict[str, Callable[[Tensor], Tensor]] = {
    "layer": _LINEAR,
    "attention": lambda h: _ATTENTION(h.unsqueeze(1)).squeeze(1),
    "recurrent": lambda h: _RECURRENT(h.unsqueeze(1))[0].squeeze(1),
    "normalised": nn.BatchNorm1d(4),
    "where": lambda h: torch.where(h > 0.5, h * 2, h - 1),
    "masked_fill": lambda h: h * torch.ones(5, 4).masked_fill(h.detach().bool(), 0),
    "gather": lambda h: h * torch.arange(4.0).expand(5, 4).gather(1, h.detach().long()),
    "index": lambda h: h[:, torch.tensor([0, 2])],
    "in place": lambda h: torch.zeros(5, 4).index_put((torch.arange(5),), h),
    "sparse matrix": lambda h: torch.sparse.mm(_SPARSE, h.T).T,
    "sparse sample": lambda h: torch.sparse.mm(h.to_sparse(), torch.ones(4, 2)),
    "shape": lambda h: h.view(h.shape[0], 2, -1).sum(1),
    "checkpoint": lambda h: torch.utils.checkpoint.checkpoint(_LINEAR, h, use_reentrant=False),  # type: ignore[return-value]
    "not of a sample": lambda h: h * float(torch.ones(()).item()),
}
SEEN: dict[str, Callable[[Tensor], Tensor]] = {
    "if": lambda h: h if h.sum() > 3 else h * 2,
    "item": lambda h: h * h.sum().item(),
    "int": lambda h: h * len(range(h.sum().int())),  # type: ignore[arg-type]
    "tolist": lambda h: h * sum(h.detach().sum(1).tolist()),
    "numpy": lambda h: h * float(h.detach().numpy().sum()),
    "numpy of a view": lambda h: h * float(h.detach()[1:].T.numpy().sum()),
    "data": lambda h: h * bool(h.data.sum()),
    "written": lambda h: h * torch.zeros(5, 4).copy_(h.detach())[0].sum().item(),
    "written by a view": lambda h: h * _written(h)[0, 0].item(),
    "out": lambda h: h * torch.add(h.detach(), 1, out=torch.zeros(5, 4)).sum().item(),
    "equal": lambda h: h * (1 if torch.equal(h, h * h) else 0),
    "mask": lambda h: h + h[h.detach() > 0.5].sum(),
    "nonzero": lambda h: h * len(h.nonzero()),
    "unique": lambda h: h * len(h.unique()),
    "repeat": lambda h: h * len(torch.repeat_interleave(torch.ones(5), h.detach().sum(1).long())),
    "packed": _packed,
    "sparse": lambda h: h * h.detach().to_sparse()._nnz(),
    "contains": lambda h: h * (1 if 1.0 in h else 2),
}


def _written(h: Tensor) -> Tensor:
    whole = torch.zeros(5, 4)
    whole[:, :2].add_(h.detach()[:, :2])
    return whole


@pytest.mark.parametrize("how", [*UNSEEN, *SEEN])
def test_it_is_known_whether_python_looks_at_samples(how: str) -> None:
    torch.manual_seed(0)
    first, node, x = nn.Linear(3, 4), dither.Bernoulli(), torch.randn(5, 3)
    estimator = dither.MuProp([first, node], vectorize=False)
    estimator.examples = "separate"  # which some are not, as this test sums over all
    use = (UNSEEN | SEEN)[how]
    estimator(lambda: use(node(first(x))).sum(1)).backward()
    assert estimator.reading == (how in SEEN)


def _stops(a: Tensor, node: nn.Module) -> Tensor:
    h = node(a[0].view(1, 1))
    if h.item() > 0:
        h = h + node((a[1] * h).view(1, 1))
    return (1.3 * h + a[1]).sin().squeeze(1)


@pytest.mark.parametrize("name", ["MuProp", "DisARM"])
def test_python_is_seen_in_compiled_steps_and_under_grad(name: str) -> None:
    node, a = dither.Bernoulli(), torch.tensor([0.3, -0.6], dtype=F64, requires_grad=True)
    estimator = getattr(dither, name)(node, vectorize=False)

    def loss(a: Tensor) -> Tensor:
        return estimator(lambda: _stops(a, node))

    torch._dynamo.reset()
    compiled = torch.compile(loss, backend="eager")
    for grad in (torch.func.grad(loss), lambda a: torch.autograd.grad(compiled(a), a)[0]):
        for seed in range(3):
            torch.manual_seed(seed)
            gradient = grad(a)
            assert estimator.reading
            torch.manual_seed(seed)
            torch.testing.assert_close(gradient, torch.autograd.grad(loss(a), a)[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["DoubleCV", "RODEO", "MuProp", "REBAR", "DisARM"])
def test_compiled_nets_give_the_same_gradients_run_after_run(name: str) -> None:
    gradients = []
    for compiled in (False, True):
        torch.manual_seed(0)
        torch._dynamo.reset()
        layers = [nn.Linear(3, 4), dither.Bernoulli(), nn.Linear(4, 3), nn.Tanh(), dither.Bernoulli(), nn.Linear(3, 1)]
        net, x = nn.Sequential(*layers).double(), torch.randn(4, 3, dtype=F64)
        run = torch.compile(net, backend="eager") if compiled else net
        estimator = getattr(dither, name)(net, vectorize=False)
        torch.manual_seed(3)
        for _ in range(2):
            loss = estimator(lambda run=run, x=x: run(x).squeeze(1).square())
            gradients.append(torch.autograd.grad(loss, [*net.parameters()]))
    for one, other in zip(gradients[:2], gradients[2:], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_only_what_a_vmap_cannot_take_is_told_to_do_without() -> None:
    covered, other = nn.Sequential(nn.Linear(3, 4), dither.Bernoulli()), dither.Bernoulli()
    for closure, told in (
        (lambda: other(covered(torch.ones(2, 3))).sum(1), False),
        (lambda: covered(torch.ones(2, 3)).sum(1) * covered[1](torch.ones(2, 1)).sum().item(), True),
    ):
        with pytest.raises(RuntimeError) as caught:
            exact.expected_cost(covered, closure)
        assert ("vectorize=False" in " ".join(getattr(caught.value, "__notes__", []))) == told


def test_tensors_without_values_are_run_after_run_too() -> None:
    with FakeTensorMode():
        net = nn.Sequential(nn.Linear(3, 4), dither.Bernoulli(), nn.Linear(4, 1))
        for name in ("REBAR", "MuProp", "DisARM"):
            net.zero_grad()
            getattr(dither, name)(net, vectorize=False)(lambda: net(torch.ones(5, 3)).squeeze(1).square()).backward()
            assert net[0].weight.grad.shape == (4, 3)
