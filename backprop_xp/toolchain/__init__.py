"""What compiles: the C++ compiler, NVRTC, and the cache of what they made."""
