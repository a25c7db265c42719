"""Experiments: one flat script per table or figure reproduced, and per benchmark task."""
