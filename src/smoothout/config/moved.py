"""Names of earlier versions: classes, keys and values of settings. Older configs and commands still work."""

from __future__ import annotations

import warnings

MOVED = {
    "smoothout.analysis.recorded.Interpolation": "smoothout.analysis.jobs.interpolation.Interpolation",
    "smoothout.analysis.recorded.NoiseCurve": "smoothout.analysis.jobs.noise_curve.NoiseCurve",
    "smoothout.analysis.recorded.RunningAverages": "smoothout.analysis.jobs.running_statistics.RunningStatistics",
    "smoothout.analysis.recorded.Sharpness": "smoothout.analysis.jobs.sharpness.Sharpness",
    "smoothout.analysis.recorded_around.Hessian": "smoothout.analysis.jobs.hessian.Hessian",
    "smoothout.analysis.recorded_around.Landscape": "smoothout.analysis.jobs.landscape.Landscape",
    "smoothout.analysis.recorded_around.Plane": "smoothout.analysis.jobs.landscape.Plane",
    "smoothout.analysis.recorded_searches.Adaptive": "smoothout.analysis.jobs.adaptive_sharpness.AdaptiveSharpnessJob",
    "smoothout.analysis.recorded_searches.Atlas": "smoothout.analysis.jobs.search_comparison.SearchComparison",
    "smoothout.choosing.Grid": "smoothout.reproduction.choose_strength.Grid",
    "smoothout.claims.Judging": "smoothout.reproduction.claims.ClaimScope",
    "smoothout.data.images.Images": "smoothout.data.image_arrays.ImageArrays",
    "smoothout.data.photos.Photos": "smoothout.data.image_folder.ImageFolder",
    "smoothout.models.imagenet.ResNet18": "smoothout.models.resnet18.ResNet18",
    "smoothout.perturbation.Noise": "smoothout.training.methods.smoothout.NoiseConfig",
    "smoothout.reproduction.Scope": "smoothout.reproduction.table.RunSelection",
    "smoothout.settings.Folders": "smoothout.jobs.runtime.Folders",
    "smoothout.settings.Profile": "smoothout.config.experiment.Profile",
    "smoothout.training.optimizers.Momentum": "smoothout.training.optimizers.SGD",
    "smoothout.training.step.Batch": "smoothout.training.batch.Batch",
}


def current_name(target: str, key: str) -> str:
    """The current full name of the class ``target``, with a FutureWarning if it was renamed; ``key`` is its node."""
    if target not in MOVED:
        return target
    warnings.warn(f"{key}._target_: {target} is now {MOVED[target]}", FutureWarning, stacklevel=2)
    return MOVED[target]


def warn_renamed(old: str, new: str) -> None:
    """Warn, in one line, that the setting ``old`` is now ``new``."""
    warnings.warn(f"{old}: was renamed {new}", FutureWarning, stacklevel=3)
