"""Auricle trains speech recognisers in stages, on any machine, without losing a step."""

__version__ = "0.1.0"
