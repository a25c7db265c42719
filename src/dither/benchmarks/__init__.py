"""Benchmarks: what things cost, one flat file for each entry of `dither bench`.

Beside them stands what several of them share: `timing` (how they measure), `deep_nets` (the nets of `step` and
`memory`), `by_hand` and `peers` (what `overhead` compares with).
"""
