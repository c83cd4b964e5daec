"""The frameworks import torchvision, whose operators may not fit torch: imported first, it does."""

from __future__ import annotations

from importlib.util import find_spec

from smoothout.common.torchvision_compat import import_torchvision

if find_spec("torchvision") is not None:
    import_torchvision()
