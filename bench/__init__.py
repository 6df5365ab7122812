"""Throughput cases, and the suites that run them."""
