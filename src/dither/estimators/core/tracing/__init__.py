"""What taints a value: samples followed through the operators of a run, element by element."""
