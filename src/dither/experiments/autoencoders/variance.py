"""The variance of an estimator's gradient at a network that stays as it is."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from dither import Estimator, noise
from dither.experiments.autoencoders.training import Autoencoder, Images, Training


def warm_up(training: Training, images: Images, steps: int, seed: int) -> None:
    """Calls of the estimator on training batches with the model left as it is: its moving averages converge, and its
    own parameters learn."""
    own = training.estimator_optimizer
    for step in range(steps):
        torch.default_generator.manual_seed(noise.step_seed(seed, step))
        x = images(step)
        loss = training.estimator(lambda x=x: training.model.cost(x))
        if own is not None:
            own.zero_grad(set_to_none=True)
            loss.backward()
            own.step()
    training.model.zero_grad(set_to_none=True)


def gradient_variance(
    model: Autoencoder, estimator: Estimator, parameters: Iterable[nn.Parameter], x: Tensor, draws: int, seed: int
) -> dict[str, float]:
    """The variance of the gradient of the mean cost of the fixed batch `x` by `parameters`, over `draws` samples of it.

    variance is its mean over coordinates, variance_total the sum, signal the squared norm of the mean gradient corrected
    for the noise that is left in it. Unbiased (divided by draws - 1); the estimator's state is left as it is.
    """
    if draws < 2:
        raise ValueError(f"draws is {draws}: a variance needs at least 2; 100 or more tell methods apart")
    parameters = list(parameters)
    size = sum(p.numel() for p in parameters)
    mean, squares = torch.zeros(size, dtype=torch.float32, device="cpu"), torch.zeros(size, dtype=torch.float64, device="cpu")
    with estimator.frozen():
        for draw in range(draws):
            torch.default_generator.manual_seed(noise.step_seed(seed, draw))
            gradients = torch.autograd.grad(estimator(lambda: model.cost(x)), parameters, materialize_grads=True)
            gradient = torch.cat([g.reshape(-1) for g in gradients])
            change = gradient - mean
            mean += change / (draw + 1)
            squares += change * (gradient - mean)
    total = float(squares.sum()) / (draws - 1)
    signal = float(mean.double().square().sum()) - total / draws
    return {"variance": total / size, "variance_total": total, "signal": signal}
