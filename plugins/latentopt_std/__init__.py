"""latentopt's built-ins. They enter through the same hooks as anyone's plugin and import only latentopt's public names."""

from __future__ import annotations

from collections.abc import Sequence

from latentopt import DecoderConfig, InterpolatorConfig, ObjectiveConfig, SamplerConfig, SearchConfig, hookimpl
from latentopt_std.adam import Adam
from latentopt_std.cmaes_search import CMAES
from latentopt_std.decoders import Digits, ModuleDecoder
from latentopt_std.earlier_run import EarlierRun
from latentopt_std.interpolators import Lerp, Slerp, Spline
from latentopt_std.langevin import Langevin
from latentopt_std.latent_terms import Anchor, Diversity, PriorTerm
from latentopt_std.lbfgs import LBFGS
from latentopt_std.levenberg_marquardt import LevenbergMarquardt
from latentopt_std.measurement import Measurement
from latentopt_std.objectives import BCE, MAE, MSE, CrossEntropy, Huber
from latentopt_std.optuna_search import OptunaSearch
from latentopt_std.perceptual import Perceptual
from latentopt_std.properties import BlackBox, Property
from latentopt_std.random_search import RandomSearch
from latentopt_std.samplers import (
    AroundSampler,
    EncodedSampler,
    FittedSampler,
    NormalSampler,
    PriorSampler,
    SobolSampler,
    SphereSampler,
    TruncatedSampler,
    UniformSampler,
)
from latentopt_std.structural import MSSSIM, SSIM

__all__ = [
    "BCE",
    "CMAES",
    "LBFGS",
    "MAE",
    "MSE",
    "MSSSIM",
    "SSIM",
    "Adam",
    "Anchor",
    "AroundSampler",
    "BlackBox",
    "CrossEntropy",
    "Digits",
    "Diversity",
    "EarlierRun",
    "EncodedSampler",
    "FittedSampler",
    "Huber",
    "Langevin",
    "Lerp",
    "LevenbergMarquardt",
    "Measurement",
    "ModuleDecoder",
    "NormalSampler",
    "OptunaSearch",
    "Perceptual",
    "PriorSampler",
    "PriorTerm",
    "Property",
    "RandomSearch",
    "Slerp",
    "SobolSampler",
    "SphereSampler",
    "Spline",
    "TruncatedSampler",
    "UniformSampler",
]


@hookimpl
def latentopt_register_decoders() -> Sequence[type[DecoderConfig]]:
    return [Digits, ModuleDecoder]


@hookimpl
def latentopt_register_samplers() -> Sequence[type[SamplerConfig]]:
    return [
        PriorSampler,
        NormalSampler,
        TruncatedSampler,
        UniformSampler,
        SphereSampler,
        SobolSampler,
        AroundSampler,
        FittedSampler,
        EncodedSampler,
        EarlierRun,
    ]


@hookimpl
def latentopt_register_interpolators() -> Sequence[type[InterpolatorConfig]]:
    return [Lerp, Slerp, Spline]


@hookimpl
def latentopt_register_objectives() -> Sequence[type[ObjectiveConfig]]:
    return [
        MSE,
        MAE,
        Huber,
        BCE,
        CrossEntropy,
        SSIM,
        MSSSIM,
        Perceptual,
        Measurement,
        Property,
        BlackBox,
        PriorTerm,
        Anchor,
        Diversity,
    ]


@hookimpl
def latentopt_register_searches() -> Sequence[type[SearchConfig]]:
    return [Adam, Langevin, OptunaSearch, RandomSearch, LBFGS, LevenbergMarquardt, CMAES]
