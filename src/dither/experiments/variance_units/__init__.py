"""How the variance of every estimator's gradient grows with the number of units: `dither experiment variance-units`.

experiment     what is compared, and the sizes
problem        any number of units whose true gradient is known
measurement    noise and bias of one estimator on one problem, measured and summed exactly
growth         noise and bias over several problems, and the exponents of their growth
"""
