import json

import pytest
from typer.testing import CliRunner

from auricle.cli.main import app
from tests.corpora import write_an4
from tests.data.sources.test_librispeech import sample as librispeech
from tests.speech import write_audio, write_digits


def run(*arguments):
    return CliRunner().invoke(app, ["data", *map(str, arguments)])


@pytest.fixture
def corpus(tmp_path):
    return write_digits(tmp_path / "corpus", recordings=6)


def test_prepare_then_inspect(corpus, tmp_path):
    made = run("prepare", "fsdd", f"folder={corpus}", "dev_recordings=[5]", "--to", tmp_path / "m", "--workers", "1")
    assert made.exit_code == 0, made.output
    assert "120 utterances" in made.stdout
    shown = run("inspect", tmp_path / "m")
    assert shown.exit_code == 0
    for words in ("dev", "fsdd", "languages  en 120", "rejected   none", "efghinorstuvwxz"):
        assert words in shown.stdout


def test_inspect_as_json_is_the_summary_with_all_rejections(tmp_path):
    rows = [{"audio": f"{n}.wav", "text": "go"} for n in range(40)]
    for n in range(10):
        write_audio(tmp_path / f"{n}.wav")
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    made = run("prepare", "jsonl", f"files.train={tmp_path}/a.jsonl", "--to", tmp_path / "m", "--max-rejected", "0.8")
    assert made.exit_code == 0, made.output
    summary = json.loads(run("inspect", tmp_path / "m", "--json").stdout)
    assert summary["utterances"] == 10
    assert summary["rejected"] == {"missing_file": 30}
    assert [row["id"] for row in summary["rejections"]] == [str(n) for n in range(10, 40)]
    shown = run("inspect", tmp_path / "m").stdout
    assert "missing_file" in shown
    assert "… and 10 more" in shown


@pytest.mark.parametrize(("arguments", "code", "words"), [
    (["fsd"], 2, "did you mean 'fsdd'"),
    (["fsdd", "foldr=x"], 2, "did you mean 'folder'"),
    (["fsdd", "folder"], 2, "expected KEY=VALUE"),
    (["fsdd", "folder=[x"], 2, "no YAML"),
    (["fsdd", "folder=nowhere"], 3, "no folder 'nowhere'"),
])
def test_a_mistake_is_one_sentence(arguments, code, words, tmp_path):
    result = run("prepare", *arguments, "--to", tmp_path / "m")
    assert result.exit_code == code
    assert words in result.stderr
    assert "Traceback" not in result.output


def test_what_is_no_manifest_is_refused(tmp_path):
    result = run("inspect", tmp_path)
    assert result.exit_code == 3
    assert "auricle data prepare" in result.stderr


def test_inspect_can_verify_the_files(tmp_path):
    source = librispeech(tmp_path / "corpus")
    splits = "splits={train: [train-clean-100], dev: [dev-clean]}"
    made = run("prepare", "librispeech", f"folder={source.folder}", splits, "--to", tmp_path / "m", "--workers", "1")
    assert made.exit_code == 0, made.output
    assert "verified   6 of 6 files" in run("inspect", tmp_path / "m", "--verify").stdout
    damaged = next((tmp_path / "corpus" / "dev-clean").rglob("*.flac"))
    damaged.write_bytes(damaged.read_bytes() + b"x")
    found = run("inspect", tmp_path / "m", "--verify", "--json")
    assert found.exit_code == 3
    assert json.loads(found.stdout)["damaged"] == [{"id": damaged.stem, "file": str(damaged), "what": "changed"}]
    assert f"1 of 6 files are not what was prepared; first: {damaged} is changed" in found.stderr
    assert run("inspect", tmp_path / "m").exit_code == 0


def test_inspect_tells_what_features_there_are(tmp_path):
    made = run("prepare", "an4", f"folder={write_an4(tmp_path / 'corpus')}", "--to", tmp_path / "m", "--workers", "1")
    assert made.exit_code == 0, made.output
    assert "features   13 values, 100 frames a second" in run("inspect", tmp_path / "m").stdout
