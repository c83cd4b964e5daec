"""Names of earlier versions: classes, keys and values of settings. Older configs and commands still work."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omegaconf import DictConfig

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


RENAMED = {
    # groups and keys of the programs
    "perturbation": "method",
    "regime": "protocol",
    "longer": "epoch_multiplier",
    "sizes": "batch_sizes",
    "batchnorm_start": "batchnorm_init",
    "border": "pad_color",
    "other": "second_run",
    "judging": "claim_scope",
    # keys within a group
    "method.law": "method.distribution",
    "method.draw": "method.noise_per",
    "method.course": "method.strength_schedule",
    "schedule.drops": "schedule.milestones",
    "schedule.factor": "schedule.gamma",
    "schedule.lr_reference": "schedule.base_batch_size",
    "schedule.warm_up": "schedule.warmup_epochs",
    "data.side": "data.crop_size",
    "data.short": "data.resize_size",
    "data.border": "data.pad_color",
    "data.damaged": "data.on_corrupt",
    "data.held_out": "data.validation_size",
    "analysis.part": "analysis.split",
    "analysis.weights": "analysis.checkpoint",
    "analysis.averages": "analysis.running_stats",
    "analysis.law": "analysis.distribution",
    "analysis.normalise_logits": "analysis.normalize_logits",
    "engine.layout": "engine.memory_format",
    "engine.together": "engine.concurrent_trainings",
    "grid.weights": "grid.checkpoint",
    "scope.regime": "scope.protocol",
    "claim_scope.regimes": "claim_scope.protocols",
    "picture": "headline",
    "picture_caption": "headline_caption",
}
_PROTOCOLS = {"released": "authors_code", "described": "paper_text", "v1": "authors_code_v1"}
RENAMED_VALUES = {
    "protocol": _PROTOCOLS,
    "scope.protocol": _PROTOCOLS,
    "claim_scope.protocols": _PROTOCOLS,
    "analysis": {"averages": "running_statistics", "atlas": "search_comparison", "adaptive": "adaptive_sharpness"},
    "engine.ghosts": {"in_turn": "sequential", "one_pass": "batched"},
}
_OVERRIDE = re.compile(r"([+~]{0,2})([A-Za-z_][\w.]*)(?:=(.*))?", re.DOTALL)


def current_name(target: str, key: str) -> str:
    """The current full name of the class ``target``, with a FutureWarning if it was renamed; ``key`` is its node."""
    if target not in MOVED:
        return target
    warnings.warn(f"{key}._target_: {target} is now {MOVED[target]}", FutureWarning, stacklevel=2)
    return MOVED[target]


def warn_renamed(old: str, new: str) -> None:
    """Warn, in one line, that the setting ``old`` is now ``new``."""
    warnings.warn(f"{old}: is now {new}", FutureWarning, stacklevel=3)


def current_key(key: str) -> str:
    """The current name of a setting's full key; it has no ``_target_``, groups are separated by dots."""
    group, dot, name = key.partition(".")
    key = f"{RENAMED.get(group, group)}{dot}{name}"
    return RENAMED.get(key, key)


def current_overrides(overrides: Iterable[str]) -> list[str]:
    """``overrides`` with current keys and values; each that was renamed gives a warning."""
    return [_current_override(override) for override in overrides]


def _current_override(override: str) -> str:
    match = _OVERRIDE.fullmatch(override)
    if match is None:
        return override
    sign, old_key, value = match.groups()
    key = current_key(old_key)
    names = RENAMED_VALUES.get(key, {})
    # A value may be one name, or several in a sweep or a list.
    new_value = value and re.sub(r"\w+", lambda name: names.get(name[0], name[0]), value)
    current = f"{sign}{key}" if value is None else f"{sign}{key}={new_value}"
    if current != override:
        warn_renamed(override, current)
    return current


def rename_keys(config: DictConfig) -> None:
    """Rename old keys of users' config files, in place; an old key takes precedence over the current one."""
    from omegaconf import DictConfig, OmegaConf, open_dict  # noqa: PLC0415 -- rendering from the cache needs none of it

    for old, new in RENAMED.items():
        group, _, name = old.rpartition(".")
        parent = config.get(group) if group else config
        if isinstance(parent, DictConfig) and name in parent:
            warn_renamed(old, new)
            with open_dict(config):
                OmegaConf.update(config, new, parent._get_node(name), merge=True, force_add=True)
                del parent[name]
    for key, names in RENAMED_VALUES.items():
        value = OmegaConf.select(config, key, default=None)
        values = [value] if isinstance(value, str) else list(value) if OmegaConf.is_list(value) else []
        if any(item in names for item in values):
            renamed = [names.get(item, item) for item in values]
            warn_renamed(f"{key}={value}", f"{key}={renamed}")
            OmegaConf.update(config, key, renamed[0] if isinstance(value, str) else renamed)


def rename_nested_overrides(config: dict[str, Any]) -> dict[str, Any]:
    """``config`` with current overrides in the lists of its table, figure and claims."""
    return {key: _renamed(value) if key in ("table", "figure", "claims") else value for key, value in config.items()}


def _renamed(node: Any) -> Any:
    if isinstance(node, dict):
        return {current_key(key) if isinstance(key, str) and "." in key else key: _renamed(node[key]) for key in node}
    if isinstance(node, list):
        return [_current_override(item) if isinstance(item, str) and "=" in item else _renamed(item) for item in node]
    return node
