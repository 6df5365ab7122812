"""Real data: tables from files, as arrays a net can be trained on, and back to answers.

What is learnt from a table, such as means and the names of classes, is kept with the net in its file.
"""

from .errors import DataError
from .model import Model
from .recipe import train
from .sets import SETS, read
from .settings import Recipe
from .several import Several
from .table import Table
from .targets import Amount, Classes
from .trained import Trained

__all__ = ["SETS", "Amount", "Classes", "DataError", "Model", "Recipe", "Several", "Table", "Trained", "read", "train"]
