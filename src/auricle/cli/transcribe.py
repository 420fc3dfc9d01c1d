"""`auricle transcribe`: audio files to text, one line a file."""

import json
from pathlib import Path
from typing import Annotated

import typer


def transcribe(
    model: Annotated[str, typer.Argument(help="A run, checkpoint or exported folder, or a hub id.")],
    audio: Annotated[list[Path], typer.Argument(help="wav, flac, ogg or mp3 files.")],
    decoder: Annotated[str, typer.Option("--decoder", help="Empty is the model's own.")] = "",
    device: Annotated[str, typer.Option("--device", help="auto, cuda, mps or cpu.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a file.")] = False,
) -> None:
    """Transcribe audio files."""
    from auricle.inference.load import open_model
    from auricle.inference.transcribe import pick_device, transcribe

    for transcript in transcribe(open_model(model), audio, decoder=decoder, device=pick_device(device)):
        if as_json:
            row = {"audio": str(transcript.path), "text": transcript.text, "seconds": round(transcript.seconds, 3)}
            print(json.dumps(row, ensure_ascii=False))
        else:
            print(f"{transcript.path}\t{transcript.text}" if len(audio) > 1 else transcript.text)
