"""The score function with samples as bits and nothing sent backward."""
