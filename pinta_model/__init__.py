"""PINTA: a reference model of an accelerator for training in SMX blocks. It imports nothing of the host."""

from .architecture import Architecture, configs, default, read
from .errors import PintaError
from .model import Cost, Report, evaluate
from .workload import Workload, load, loads

__all__ = [
    "Architecture",
    "Cost",
    "PintaError",
    "Report",
    "Workload",
    "configs",
    "default",
    "evaluate",
    "load",
    "loads",
    "read",
]
