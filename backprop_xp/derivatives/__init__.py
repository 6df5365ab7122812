"""Derivatives of a net's outputs in its inputs, of any order, and losses that contain them.

``chain_rule.py``, ``signals.py`` and ``activations.py`` stand below operations, which push and pull by them; all else
stands above plans.
"""
