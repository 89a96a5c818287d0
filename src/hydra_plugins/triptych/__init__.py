"""Where Hydra looks for launchers. No `__init__.py` one folder up: the package is shared."""
