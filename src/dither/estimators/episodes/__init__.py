"""Rewards that come later than the decisions."""
