"""`auricle transcribe`: audio files to text, one line a file."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from auricle.core.errors import UsageError

if TYPE_CHECKING:
    from auricle.inference.transcribe import Transcript


def transcribe(
    model: Annotated[str, typer.Argument(help="A run, checkpoint or exported folder, or a hub id.")],
    audio: Annotated[list[Path], typer.Argument(help="wav, flac, ogg or mp3 files, of any length.")],
    decoder: Annotated[str, typer.Option("--decoder", help="Empty is the model's own.")] = "",
    device: Annotated[str, typer.Option("--device", help="auto, cuda, mps or cpu.")] = "auto",
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help="Segments a batch, 8 by default; changes no text.")
    ] = None,
    timestamps: Annotated[bool, typer.Option("--timestamps", help="One line a segment, with its seconds.")] = False,
    stream: Annotated[bool, typer.Option("--stream", help="Print text while it is generated.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a file, with its segments.")] = False,
) -> None:
    """Transcribe audio files."""
    taken = [name for name, value in (("--json", as_json), ("--batch-size", batch_size), ("--decoder", decoder))
             if value]
    if stream and taken:
        raise UsageError(f"--stream: prints what is generated for one segment after the other and does not go with "
                         f"{' and '.join(taken)}; leave out one or the other")
    from auricle.cli.console import transcribing
    from auricle.inference.load import open_model
    from auricle.inference.segments import seconds_of
    from auricle.inference.transcribe import BATCH_SIZE, pick_device, transcribe

    where = pick_device(device)
    if stream:
        _stream(open_model(model), audio, where, timestamps)
        return
    with transcribing(sum(map(seconds_of, audio))) as (progress, show):
        for transcript in transcribe(open_model(model), audio, decoder=decoder, device=where,
                                     batch_size=batch_size or BATCH_SIZE, progress=progress):
            name = f"{transcript.path}\t" if len(audio) > 1 and not as_json else ""
            if lines := list(_lines(transcript, as_json, timestamps)):
                show("\n".join(name + line for line in lines))


def _lines(transcript: "Transcript", as_json: bool, timestamps: bool) -> Iterator[str]:
    if as_json:
        segments = [{"start": round(one.start, 3), "stop": round(one.stop, 3), "text": one.text}
                    for one in transcript.segments]
        yield json.dumps({"audio": str(transcript.path), "text": transcript.text,
                          "seconds": round(transcript.seconds, 3), "segments": segments}, ensure_ascii=False)
    elif timestamps:
        yield from (f"{_stamp(one)}{one.text}" for one in transcript.segments)
    else:
        yield transcript.text


def _stamp(segment: Any) -> str:
    return f"[{segment.start:.2f} - {segment.stop:.2f}] "


def _stream(assembly: Any, audio: list[Path], device: Any, timestamps: bool) -> None:
    """The same lines as without, growing."""
    from auricle.inference.transcribe import stream

    for path in audio:
        name, start = f"{path}\t" if len(audio) > 1 else "", None
        print("" if timestamps else name, end="")
        for piece in stream(assembly, path, device=device):
            if timestamps and piece.start != start:
                print("\n" if start is not None else "", name, _stamp(piece), sep="", end="")
            elif piece.start != start and start is not None:
                print(" ", end="")
            start = piece.start
            print(piece.text, end="", flush=True)
        if start is not None or not timestamps:
            print()
