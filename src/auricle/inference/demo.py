"""A page on which anyone can speak to a model: microphone or file, live text, segments, speed.

Nothing leaves the machine unless a public link is asked for: fonts and scripts come with gradio, analytics are off.
"""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from auricle.core.errors import AuricleError, MissingExtra, UsageError
from auricle.inference.segments import seconds_of
from auricle.inference.transcribe import Segment, Transcript, stream, streams, transcribe
from auricle.tasks.parts.assembly import Assembly

CACHE_SECONDS = 3600
"""Recordings are deleted from the server's temporary folder after this long."""
CSS = ".gradio-container {width: 100% !important; max-width: 60rem !important; margin: auto}"


def load_gradio() -> Any:
    """The package, which is an extra and slow to import. Raises MissingExtra."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when it is imported, and again by its parts
    try:
        import gradio
    except ModuleNotFoundError:
        raise MissingExtra("the demo", "demo") from None
    return gradio


def growing(assembly: Assembly, path: Path, *, device: torch.device | None = None,
            progress: Callable[[float], None] | None = None) -> Iterator[Transcript]:
    """The transcript again and again while the task streams it, the last one complete; else that one alone."""
    if not streams(assembly.task):
        yield from transcribe(assembly, [path], device=device, progress=progress)
        return
    seconds, pieces = seconds_of(path), {}
    for piece in stream(assembly, path, device=device):
        bounds = (piece.start, piece.stop)
        pieces[bounds] = pieces.get(bounds, "") + piece.text
        segments = tuple(Segment(start=start, stop=stop, text=text) for (start, stop), text in pieces.items())
        text = " ".join(filter(None, pieces.values()))
        yield Transcript(path=path, text=text, seconds=seconds, segments=segments)
    if not pieces:
        yield Transcript(path=path, text="", seconds=seconds, segments=())


def build(assembly: Assembly, name: str, device: torch.device) -> Any:
    """The page as a `gradio.Blocks`; its endpoint is /transcribe. Raises MissingExtra."""
    gradio = load_gradio()
    bar = gradio.Progress()

    def show(path: str | None, progress: Any = bar) -> Iterator[tuple[str, Any, str]]:
        if path is None:
            yield "", gradio.Dataframe(value=[], visible=False), ""
            return
        total, started = seconds_of(Path(path)), time.monotonic()

        def report(done: float) -> None:
            progress(min(done / total, 1.0) if total else 1.0, desc="Transcribing")

        try:
            for transcript in growing(assembly, Path(path), device=device, progress=report):
                rows = [[f"{one.start:.2f}", f"{one.stop:.2f}", one.text] for one in transcript.segments]
                table = gradio.Dataframe(value=rows, visible=bool(rows))
                took = time.monotonic() - started
                yield transcript.text, table, f"{total:.1f} s of audio, {took:.1f} s so far"
            yield transcript.text, table, _speed(total, time.monotonic() - started)
        except AuricleError as error:
            message = str(error).replace(path, Path(path).name)  # where the upload lies is nobody's concern
            raise gradio.Error(message, duration=None, print_exception=False) from None

    with gradio.Blocks(title=f"{name} · Auricle", analytics_enabled=False,
                       delete_cache=(CACHE_SECONDS, CACHE_SECONDS)) as page:
        gradio.Markdown(f"# {name}\n{_description(assembly, device)}")
        audio = gradio.Audio(sources=["microphone", "upload"], type="filepath", label="Speech", buttons=["download"])
        button = gradio.Button("Transcribe", variant="primary")
        text = gradio.Textbox(label="Text", lines=3, interactive=False, buttons=["copy"])
        facts = gradio.Markdown()
        segments = gradio.Dataframe(headers=["start", "stop", "text"], label="Segments", interactive=False, wrap=True,
                                    column_widths=["12%", "12%", "76%"], visible=False)
        gradio.on([button.click, audio.stop_recording, audio.upload], show, audio, [text, segments, facts],
                  api_name="transcribe", concurrency_limit=1, show_progress_on=text)
    return page


def _speed(seconds: float, took: float) -> str:
    factor = f", real-time factor {took / seconds:.3f}" if seconds else ""
    return f"{seconds:.1f} s of audio in {took:.2f} s{factor}"


def _description(assembly: Assembly, device: torch.device) -> str:
    parameters = sum(parameter.numel() for parameter in assembly.model.parameters())
    return f"{assembly.model_config.kind} · {parameters:,} parameters · {device}"


def serve(page: Any, *, host: str, port: int, share: bool = False) -> str:
    """Starts the page in a thread and returns its address, the public one if it is shared.

    Raises UsageError for a port that is taken.
    """
    try:
        _, local, public = page.launch(server_name=host, server_port=port, share=share, prevent_thread_lock=True,
                                       ssr_mode=False, quiet=True, inbrowser=False, run_history=False,
                                       footer_links=["api"], css=CSS)
    except OSError:
        raise UsageError(f"--port: {port} cannot be used on {host}; is another program listening there? "
                         "Choose another port") from None
    return public or local
