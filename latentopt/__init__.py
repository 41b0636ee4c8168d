"""latentopt: draw, interpolate and search designs with any trained PyTorch decoder. Nothing is imported until used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_WHERE = {
    "animation": ("Film", "animate"),
    "api": ("examples", "interpolate", "load_decoder", "optimize", "resume", "run", "sample"),
    "arrayfield": ("Array",),
    "asktell": ("AskTell", "Coordinates"),
    "coderef": ("CodeRef",),
    "comparison": ("Comparison",),
    "contest": ("compare",),
    "decoder": ("Decoder", "LatentoptWarning"),
    "diagnosis": ("Diagnosis", "diagnose"),
    "budget": ("Budget", "Report"),
    "early": ("early_rungs",),
    "errors": (
        "ConfigError",
        "DecoderError",
        "DivergedError",
        "EncoderError",
        "GradientError",
        "InputFileError",
        "LatentoptError",
        "ObjectiveError",
        "OutOfMemoryError",
        "PluginError",
        "ShapeError",
    ),
    "filefield": ("FilePath",),
    "fitting": ("fit_prior",),
    "gaussians": ("Fitted", "Gaussian", "Mixture", "PriorChoice"),
    "goals": ("Bound",),
    "hookspecs": ("hookimpl",),
    "interfaces": (
        "Candidates",
        "DecoderConfig",
        "EarlyReports",
        "Evaluation",
        "Interpolator",
        "InterpolatorConfig",
        "LeastSquares",
        "Objective",
        "ObjectiveConfig",
        "Reference",
        "Sampler",
        "SamplerConfig",
        "Search",
        "SearchConfig",
        "SearchState",
    ),
    "known": ("Known", "standings"),
    "latent": ("Evidence", "LatentSpace"),
    "modules": ("as_device",),
    "optimizers": ("AllTargets", "AskTellOptimizer", "AskTellOptimizers", "OneATarget", "PruneAll", "Told"),
    "packagedata": ("filled", "package_data"),
    "priors": ("Normal", "Uniform", "UniformSphere"),
    "problem": ("Problem",),
    "realism": ("Realism",),
    "regions": ("Ball", "Box", "Free", "Near", "Shell", "Sphere"),
    "reporting": ("report",),
    "reproduction": ("Reproduction", "reproduce"),
    "result": ("Draws", "Result", "load"),
    "rng": ("RowNoise", "derive_seed"),
    "trust": ("Outside",),
    "weights": ("Weights", "load_weights", "parse_weights", "read_weights"),
    "wording": ("suggest",),
}
_HOME = {name: module for module, names in _WHERE.items() for name in names}
_MODULES = ("plots",)

__all__ = [*sorted(_HOME), *_MODULES, "__version__"]

if TYPE_CHECKING:
    from latentopt import plots as plots
    from latentopt.animation import Film as Film, animate as animate
    from latentopt.api import (
        examples as examples,
        interpolate as interpolate,
        load_decoder as load_decoder,
        optimize as optimize,
        resume as resume,
        run as run,
        sample as sample,
    )
    from latentopt.arrayfield import Array as Array
    from latentopt.asktell import AskTell as AskTell, Coordinates as Coordinates
    from latentopt.budget import Budget as Budget, Report as Report
    from latentopt.coderef import CodeRef as CodeRef
    from latentopt.comparison import Comparison as Comparison
    from latentopt.contest import compare as compare
    from latentopt.decoder import Decoder as Decoder, LatentoptWarning as LatentoptWarning
    from latentopt.diagnosis import Diagnosis as Diagnosis, diagnose as diagnose
    from latentopt.early import early_rungs as early_rungs
    from latentopt.errors import (
        ConfigError as ConfigError,
        DecoderError as DecoderError,
        DivergedError as DivergedError,
        EncoderError as EncoderError,
        GradientError as GradientError,
        InputFileError as InputFileError,
        LatentoptError as LatentoptError,
        ObjectiveError as ObjectiveError,
        OutOfMemoryError as OutOfMemoryError,
        PluginError as PluginError,
        ShapeError as ShapeError,
    )
    from latentopt.filefield import FilePath as FilePath
    from latentopt.fitting import fit_prior as fit_prior
    from latentopt.gaussians import (
        Fitted as Fitted,
        Gaussian as Gaussian,
        Mixture as Mixture,
        PriorChoice as PriorChoice,
    )
    from latentopt.goals import Bound as Bound
    from latentopt.hookspecs import hookimpl as hookimpl
    from latentopt.interfaces import (
        Candidates as Candidates,
        DecoderConfig as DecoderConfig,
        EarlyReports as EarlyReports,
        Evaluation as Evaluation,
        Interpolator as Interpolator,
        InterpolatorConfig as InterpolatorConfig,
        LeastSquares as LeastSquares,
        Objective as Objective,
        ObjectiveConfig as ObjectiveConfig,
        Reference as Reference,
        Sampler as Sampler,
        SamplerConfig as SamplerConfig,
        Search as Search,
        SearchConfig as SearchConfig,
        SearchState as SearchState,
    )
    from latentopt.known import Known as Known, standings as standings
    from latentopt.latent import Evidence as Evidence, LatentSpace as LatentSpace
    from latentopt.modules import as_device as as_device
    from latentopt.optimizers import (
        AllTargets as AllTargets,
        AskTellOptimizer as AskTellOptimizer,
        AskTellOptimizers as AskTellOptimizers,
        OneATarget as OneATarget,
        PruneAll as PruneAll,
        Told as Told,
    )
    from latentopt.packagedata import filled as filled, package_data as package_data
    from latentopt.priors import Normal as Normal, Uniform as Uniform, UniformSphere as UniformSphere
    from latentopt.problem import Problem as Problem
    from latentopt.realism import Realism as Realism
    from latentopt.regions import (
        Ball as Ball,
        Box as Box,
        Free as Free,
        Near as Near,
        Shell as Shell,
        Sphere as Sphere,
    )
    from latentopt.reporting import report as report
    from latentopt.reproduction import Reproduction as Reproduction, reproduce as reproduce
    from latentopt.result import Draws as Draws, Result as Result, load as load
    from latentopt.rng import RowNoise as RowNoise, derive_seed as derive_seed
    from latentopt.trust import Outside as Outside
    from latentopt.weights import (
        Weights as Weights,
        load_weights as load_weights,
        parse_weights as parse_weights,
        read_weights as read_weights,
    )
    from latentopt.wording import suggest as suggest


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"latentopt.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'latentopt' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"latentopt.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
