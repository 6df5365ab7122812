"""`pytest -p backprop_xp.bench.nopool`: every CuPy array is an allocation of its own.

In a pool an access behind an array's end may be one to its neighbour, which no sanitizer notices.
"""


def pytest_configure() -> None:
    """What pytest calls before the tests."""
    import cupy

    cupy.cuda.set_allocator(None)
    cupy.cuda.set_pinned_memory_allocator(None)
