"""The papers' networks: each a frozen dataclass of settings whose ``build(shape, classes)`` makes the module.

Their modules import torch inside ``build`` alone: tables are rendered, and configs checked, without it.
"""
