"""Generalized denoising auto-encoders: any network, any corruption, any reconstruction distribution."""

from __future__ import annotations

from torch import Tensor, nn

from dither import chains
from dither.corruption import Corruption, SaltAndPepper
from dither.models._denoising import Denoising, Geometric, Hidden, Shared
from dither.reconstruction import Bernoulli, Reconstruction

__all__ = ["DAE", "Geometric"]


class DAE(Denoising):
    """P(x | x~) = reconstruction(network(x~)), trained on x~ ~ corruption(x). Its chain alternates the two.

    network     any module (batch, units) -> (batch, reconstruction.outputs(units))
    steps       1: Algorithm 1 of the GDAE paper; more, or Geometric(p): walkback, Algorithm 2

    >>> import torch
    >>> model = DAE(nn.Linear(64, 64), units=64)
    >>> model.cost(torch.zeros(5, 64)).shape
    torch.Size([5])

    Raises      ValueError for outputs of another width, and what the corruption and the reconstruction refuse.
    Source      Bengio, Yao, Alain and Vincent 2013, Sec. 2 and 3.
    """

    def __init__(
        self,
        network: nn.Module,
        units: int,
        *,
        corruption: Corruption | None = None,
        reconstruction: Reconstruction | None = None,
        steps: int | Geometric = 1,
        through_samples: bool = False,
    ) -> None:
        super().__init__(units, corruption or SaltAndPepper(), reconstruction or Bernoulli(), steps, through_samples)
        self.network = network

    def reconstruct(
        self, corrupted: Tensor, hidden: Hidden = (), products: Shared = None, last: bool = False
    ) -> tuple[Tensor, Hidden]:
        outputs = self.network(corrupted)
        needed = (len(corrupted), self.reconstruction.outputs(self.units))
        if outputs.shape != needed:
            raise ValueError(f"the network gives {tuple(outputs.shape)}, {self.reconstruction} needs {needed}")
        return outputs, ()

    def log_prob(self, x: Tensor, corrupted: Tensor) -> Tensor:
        """log P(x | x~), (batch,)."""
        return self.reconstruction.log_prob(self.reconstruct(corrupted)[0], x)

    def energy(self, x: Tensor, corrupted: Tensor) -> Tensor:
        """-log P(x | x~) + log C(x~ | x), (batch,) in nats: an estimate of -log P(x), up to a constant of x~ alone.

        Trust it for x near x~, where the model was trained (GDAE paper, Sec. 2.4); `chains.relative_energies` adds up
        differences along a path.
        """
        assert self.corruption is not None
        return chains.energy(self.log_prob(x, corrupted), self.corruption.log_prob(corrupted, x))
