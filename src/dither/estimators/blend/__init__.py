"""A blend of a biased and an unbiased estimate."""
