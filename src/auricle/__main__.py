"""`python -m auricle`, which torchrun can start."""

from auricle.cli.main import app

app()
