"""Samples that avoid each other."""
