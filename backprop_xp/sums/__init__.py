"""Sums over the samples in a fixed order, whoever computes which part when."""
