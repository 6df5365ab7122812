"""Training: optimisers, schedules, the loop, and runs that survive being killed."""

from .checkpoints import CheckpointError
from .early import EarlyStopping
from .ensembles import Ensemble, ensemble
from .fit import evaluate, fit
from .history import Epoch, History
from .lbfgs import LBFGS
from .loop import Step, steps
from .nan import DivergedError
from .optimiser import Optimiser
from .optimisers import OPTIMISERS, SGD, Adagrad, Adam, AdamW, RMSprop, get_optimiser
from .point_sets import PointSet
from .resume import load_parameters
from .schedules import Constant, Cosine, Schedule, StepDecay, WarmUp

__all__ = [
    "LBFGS",
    "OPTIMISERS",
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "CheckpointError",
    "Constant",
    "Cosine",
    "DivergedError",
    "EarlyStopping",
    "Ensemble",
    "Epoch",
    "History",
    "Optimiser",
    "PointSet",
    "RMSprop",
    "Schedule",
    "Step",
    "StepDecay",
    "WarmUp",
    "ensemble",
    "evaluate",
    "fit",
    "get_optimiser",
    "load_parameters",
    "steps",
]
