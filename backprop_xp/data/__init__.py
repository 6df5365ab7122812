"""Real data: tables from files, as arrays a net can be trained on, and back to answers.

What is learnt from a table, such as means and the names of classes, is kept with the net in its file.
"""

from .errors import DataError
from .model import Model
from .recipe import Recipe, Trained, train
from .sets import SETS, read
from .table import Table
from .targets import Amount, Classes

__all__ = ["SETS", "Amount", "Classes", "DataError", "Model", "Recipe", "Table", "Trained", "read", "train"]
