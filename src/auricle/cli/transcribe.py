"""`auricle transcribe`: audio files, or samples from a pipe, to text, one line a file."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from auricle.core.errors import UsageError

if TYPE_CHECKING:
    from auricle.inference.transcribe import Transcript


def transcribe(
    model: Annotated[str, typer.Argument(help="A run, checkpoint or exported folder, or a hub id.")],
    audio: Annotated[
        list[Path], typer.Argument(help="wav, flac, ogg or mp3 files, of any length; with --stream, `-` is a pipe.")
    ],
    decoder: Annotated[str, typer.Option("--decoder", help="Empty is the model's own.")] = "",
    hotwords: Annotated[
        Path | None, typer.Option("--hotwords", help="A file with a phrase a line, which a beam is to prefer.")
    ] = None,
    hotword_bonus: Annotated[
        float | None, typer.Option("--hotword-bonus", min=0.0, help="What each label of a phrase adds, in nats.")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cuda, mps or cpu.")] = "auto",
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help="Segments a batch, 8 by default; changes no text.")
    ] = None,
    timestamps: Annotated[bool, typer.Option("--timestamps", help="One line a segment, with its seconds.")] = False,
    stream: Annotated[
        bool, typer.Option("--stream", help="Print text while it is generated, or while a model that can listens.")
    ] = False,
    chunk_seconds: Annotated[
        float | None, typer.Option("--chunk-seconds", help="Of audio that is heard at a time, 0.64 by default.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a file, with its segments.")] = False,
) -> None:
    """Transcribe audio files."""
    _refuse_what_does_not_go_together(audio, stream, chunk_seconds, batch_size, decoder)
    from auricle.cli.console import transcribing
    from auricle.inference.hotwords import with_hotwords
    from auricle.inference.live import listens
    from auricle.inference.load import open_model
    from auricle.inference.segments import seconds_of
    from auricle.inference.transcribe import BATCH_SIZE, pick_device, transcribe

    where = pick_device(device)
    assembly = with_hotwords(open_model(model), hotwords, hotword_bonus, decoder)
    if stream and (listens(assembly.task) or chunk_seconds or PIPE in audio):
        _listen(assembly, audio, where, chunk_seconds, timestamps, as_json)
        return
    if stream and as_json:
        raise UsageError(f"--stream: the task '{assembly.task_config.kind}' does not listen, and prints what it "
                         "generates for one segment after the other; that does not go with --json. Leave out one or "
                         "the other")
    if stream:
        _stream(assembly, audio, where, timestamps)
        return
    with transcribing(sum(map(seconds_of, audio))) as (progress, show):
        for transcript in transcribe(assembly, audio, decoder=decoder, device=where,
                                     batch_size=batch_size or BATCH_SIZE, progress=progress):
            name = f"{transcript.path}\t" if len(audio) > 1 and not as_json else ""
            if lines := list(_lines(transcript, as_json, timestamps)):
                show("\n".join(name + line for line in lines))


PIPE = Path("-")


def _refuse_what_does_not_go_together(audio: list[Path], stream: bool, chunk_seconds: float | None,
                                      batch_size: int | None, decoder: str) -> None:
    taken = [name for name, value in (("--batch-size", batch_size), ("--decoder", decoder)) if value]
    if stream and taken:
        raise UsageError(f"--stream: prints what is understood of one segment after the other and does not go with "
                         f"{' and '.join(taken)}; leave out one or the other")
    if not stream and (PIPE in audio or chunk_seconds):
        raise UsageError(f"{'-' if PIPE in audio else '--chunk-seconds'}: goes with --stream; add it, or leave it out")


def _listen(assembly: Any, audio: list[Path], device: Any, chunk_seconds: float | None, timestamps: bool,
            as_json: bool) -> None:
    """A line for each stretch of speech, as soon as it is over; a terminal sees it grow, and JSON has each change."""
    from auricle.inference.live import CHUNK_SECONDS, blocks_of_file, blocks_of_pipe, live

    rate, grows = assembly.task.frontend.sample_rate, sys.stdout.isatty() and not as_json
    for path in audio:
        name = f"{path}\t" if len(audio) > 1 else ""
        blocks = blocks_of_pipe(sys.stdin.buffer, rate) if path == PIPE else blocks_of_file(path, rate)
        for heard in live(assembly, blocks, chunk_seconds=chunk_seconds or CHUNK_SECONDS, device=device):
            if as_json:
                print(json.dumps({"audio": str(path), "start": round(heard.start, 3), "stop": round(heard.stop, 3),
                                  "text": heard.text, "final": heard.final}, ensure_ascii=False), flush=True)
            elif heard.final or grows:
                start = "\r\033[K" if grows else ""
                print(start, name, _stamp(heard) if timestamps else "", heard.text, sep="",
                      end="\n" if heard.final else "", flush=True)


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
