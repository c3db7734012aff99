"""The keys of a study file: the only definition of their names, types, units and defaults.

Everything that changes a number is a key here; what belongs to the machine (cores, GPUs, partitions) is in profiles, and
secrets are environment variables.
"""

from selfcontrast.schema.benchmarks import Benchmark
from selfcontrast.schema.data import WORLD_LAYOUTS, Dataset, ExpectedLengths, Hub, Splits, World
from selfcontrast.schema.judges import Endpoint, Judge, Limits, Questions, Server
from selfcontrast.schema.keys import Count, Fraction, Id, Name, Plugin, Strict
from selfcontrast.schema.models import Execution, Lora, Model, Optimisation, Scratch
from selfcontrast.schema.rewards import RewardModel, RewardTraining
from selfcontrast.schema.study import (
    Comparison,
    Evaluation,
    Figures,
    GradientFigure,
    Method,
    SimilarityFigure,
    Study,
    Sweep,
)

__all__ = [
    "WORLD_LAYOUTS",
    "Benchmark",
    "Comparison",
    "Count",
    "Dataset",
    "Endpoint",
    "Evaluation",
    "Execution",
    "ExpectedLengths",
    "Figures",
    "Fraction",
    "GradientFigure",
    "Hub",
    "Id",
    "Judge",
    "Limits",
    "Lora",
    "Method",
    "Model",
    "Name",
    "Optimisation",
    "Plugin",
    "Questions",
    "RewardModel",
    "RewardTraining",
    "Scratch",
    "Server",
    "SimilarityFigure",
    "Splits",
    "Strict",
    "Study",
    "Sweep",
    "World",
]
