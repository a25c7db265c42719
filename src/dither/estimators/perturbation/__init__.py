"""Gradients from the cost alone: parameters or logits are moved a little."""
