"""What several tests of training need."""

import numpy as np
import pytest


@pytest.fixture
def data(random):
    x = random.normal(size=(60, 3))
    return x, np.stack([np.sin(x[:, 0]), x[:, 1] * x[:, 2]], axis=1)
