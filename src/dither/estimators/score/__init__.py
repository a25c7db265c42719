"""The score function and its kin: the cost times the derivative of the log-probability."""
