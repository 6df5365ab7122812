"""The loops of forward and backward passes, in plain array code."""
