"""Compiled calls of one net that are kept ready, with every address at hand."""
