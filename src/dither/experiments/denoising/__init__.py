"""Denoising auto-encoders and generative stochastic networks: one experiment, `experiment`, with three presets.

digits, mnist, frey    `dither experiment gsn-digits`, gsn-mnist, gsn-frey: the experiment's configuration
experiment             train each model, sample it, evaluate the samples, make the table
recipes                the models, and the optimizers that train them
training               a training as a run folder that is resumed, and the model that it left
evaluation             the metrics of a sampler of images
pictures               samples, completions and autocorrelation of a trained model
"""
