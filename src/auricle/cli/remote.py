"""`auricle remote`: runs on rented machines over SSH, with a budget that is kept there."""

import typer

from auricle.cli.verbs import group_of

VERBS = {"doctor": "doctor", "deploy": "deploy", "start": "start", "attach": "attach", "logs": "logs",
         "status": "status", "list": "list", "pull": "pull", "exec": "execute", "stop": "stop", "watch": "watch",
         "offers": "offers", "launch": "launch", "release": "release", "sky": "sky", "machine": "machine"}
"""Verb → its file in `cli/remote_verbs`, in the order of the help page."""

app = typer.Typer(cls=group_of(VERBS, "auricle.cli.remote_verbs", hidden=("machine",)), add_completion=False,
                  no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def remote() -> None:
    """Train on rented machines over SSH, with a budget that is kept there."""
