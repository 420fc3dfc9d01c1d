"""Puts the repository root on the import path, so that tests can share `tests.paths`."""
