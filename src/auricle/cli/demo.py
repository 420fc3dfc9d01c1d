"""`auricle demo`: a page in the browser on which a model can be spoken to."""

from typing import Annotated

import typer


def demo(
    model: Annotated[str, typer.Argument(help="A run, checkpoint or exported folder, or a hub id.")],
    host: Annotated[str, typer.Option("--host", help="0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 7860,
    share: Annotated[
        bool, typer.Option("--share", help="Also open a public link through gradio's servers, for a week.")
    ] = False,
    device: Annotated[str, typer.Option("--device", help="auto, cuda, mps or cpu.")] = "auto",
) -> None:
    """Open a page in the browser on which a model can be spoken to."""
    from auricle.inference.demo import build, load_gradio, serve
    from auricle.inference.load import open_model
    from auricle.inference.transcribe import pick_device

    load_gradio()  # before the model, which may be large
    page = build(open_model(model), model, pick_device(device))
    print(f"{model}: {serve(page, host=host, port=port, share=share)} (Ctrl-C ends it)", flush=True)
    page.block_thread()
