"""Compiling kernels/ for the machine at hand."""
