"""What is subtracted from a cost: constants, averages over earlier calls, modules."""
