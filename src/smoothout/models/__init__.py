"""The papers' networks: frozen dataclasses of settings with a method ``build(shape, classes)`` that makes the module.

They import torch only inside ``build``, so that tables are rendered, and configs checked, without it.
"""
