"""Hides what the extra [experiments] brings: `import helpers.without_extras`, or `pytest -p helpers.without_extras`."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any

LIBRARIES = (
    "hydra hydra_plugins omegaconf yaml pandas matplotlib rich tensorboard sklearn torchvision PIL joblib submitit"
)
HIDDEN = set(LIBRARIES.split())


class Finder(PathFinder):
    @classmethod
    def find_spec(cls, fullname: str, *arguments: Any) -> ModuleSpec | None:
        return None if fullname.partition(".")[0] in HIDDEN else super().find_spec(fullname, *arguments)


sys.meta_path[:] = [Finder if finder is PathFinder else finder for finder in sys.meta_path]
