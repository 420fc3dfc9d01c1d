"""The page, called as a browser calls it."""

import json
import os
import re
import socket
import subprocess
import sys
import urllib.request
from itertools import pairwise
from types import SimpleNamespace

import pytest
import soundfile
from typer.testing import CliRunner

from auricle.cli.main import app
from auricle.core.errors import UsageError
from auricle.data.tokenizers import Characters
from auricle.inference.demo import growing, serve
from auricle.inference.load import open_model
from auricle.inference.transcribe import transcribe
from auricle.tasks.ctc.config import Config
from auricle.tasks.parts.assembly import assemble
from tests.inference.parrot import RATE, bursts, parrot, streaming_parrot
from tests.models.conformer.test_model import tiny

CALL = """
import json, sys
from gradio_client import Client, handle_file
address, *files = sys.argv[1:]
client = Client(address, verbose=False)
for file in files:
    try:
        print(json.dumps(client.predict(handle_file(file), api_name="/transcribe")))
    except Exception as error:
        print(json.dumps(str(error)))
"""


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    assemble(tiny(), Config(), Characters("abc ")).save(folder)
    return folder


@pytest.fixture
def long(tmp_path):
    soundfile.write(tmp_path / "long.wav", bursts(*[(2.0, 0.5)] * 16), RATE, subtype="FLOAT")
    return tmp_path / "long.wav"


def test_text_grows_while_it_is_generated(long):
    grown = list(growing(streaming_parrot(), long))
    assert all(len(one.text) < len(other.text) for one, other in pairwise(grown))
    assert len(grown[0].segments) == 1
    assert grown[-1:] == list(transcribe(streaming_parrot(), [long]))


def test_without_streaming_there_is_the_whole_text_alone_and_progress(long):
    told = []
    assert list(growing(parrot(), long, progress=told.append)) == list(transcribe(parrot(), [long]))
    assert told[-1] == pytest.approx(40.0)


def test_silence_leaves_an_empty_page(tmp_path):
    soundfile.write(tmp_path / "silent.wav", bursts((0.0, 9.0)), RATE)
    for assembly in (parrot(), streaming_parrot()):
        [shown] = growing(assembly, tmp_path / "silent.wav")
        assert (shown.text, shown.segments, shown.seconds) == ("", (), 9.0)


def test_without_gradio_the_extra_is_named_before_the_model_is_loaded(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    result = CliRunner().invoke(app, ["demo", "no/such/model/here"])
    assert result.exit_code == 7
    assert result.stderr == "error: the demo needs the extra [demo]; install it with: pip install 'auricle[demo]'\n"


def test_a_port_that_is_taken_is_one_sentence():
    def launch(**options):
        raise OSError("Cannot find empty port")

    with pytest.raises(UsageError, match=r"--port: 7860 cannot be used on 127\.0\.0\.1"):
        serve(SimpleNamespace(launch=launch), host="127.0.0.1", port=7860)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture
def address(model, tmp_path):
    """Of the command, running."""
    command = [sys.executable, "-m", "auricle", "demo", str(model), "--port", str(free_port()), "--device", "cpu"]
    settings = {**os.environ, "GRADIO_TEMP_DIR": str(tmp_path / "uploads")}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=settings) as served:
        try:
            yield served.stdout.readline().split()[1]
        finally:
            served.terminate()


@pytest.mark.slow
def test_the_page_says_what_transcribe_says_and_asks_nobody_else(address, model, long, tmp_path):
    (tmp_path / "text.wav").write_text("not audio")
    done = subprocess.run([sys.executable, "-c", CALL, address, str(long), str(tmp_path / "text.wav")],
                          capture_output=True, text=True, check=True)
    (text, table, facts), error = map(json.loads, done.stdout.splitlines())
    [wanted] = transcribe(open_model(str(model)), [long])
    assert len(wanted.segments) == 2
    assert text == wanted.text
    assert table["value"]["data"] == [[f"{one.start:.2f}", f"{one.stop:.2f}", one.text] for one in wanted.segments]
    assert facts.startswith("40.0 s of audio in ")
    assert "real-time factor" in facts
    assert error.startswith("text.wav: unreadable"), "a sentence, without the place of the upload"
    page, styles, config = (urllib.request.urlopen(address + part).read().decode()
                            for part in ("", "theme.css", "config"))
    assert not re.findall(r"""(?:src|href)=["']?https?:|@import|url\(["']?https?:""", page + styles)
    assert not json.loads(config)["analytics_enabled"]
    shown = [part["props"].get("value") for part in json.loads(config)["components"]]
    assert any(f"# {model}\nconformer · " in value for value in shown if isinstance(value, str))
