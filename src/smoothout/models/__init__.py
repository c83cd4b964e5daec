"""The papers' networks: each a frozen dataclass of settings whose ``build(shape, classes)`` makes the module."""
