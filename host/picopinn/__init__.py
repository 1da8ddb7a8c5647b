"""picopinn: neural PDE solvers that train in 4x4-block integers."""

from .estimators import Estimator
from .network import Network, Precision
from .problems import Problem
from .solver import Solver

__version__ = "0.1.0"

__all__ = ["Estimator", "Network", "Precision", "Problem", "Solver", "__version__"]
