"""`auricle report` as it is typed."""

from typer.testing import CliRunner

from auricle.cli.main import app
from tests.runs import write_run


def typed(*words):
    return CliRunner().invoke(app, [*map(str, words)])


def test_it_writes_the_page_and_prints_where(tmp_path):
    folder = write_run(tmp_path / "quickstart", steps=200)
    assert typed("report", folder).stdout.strip() == str(folder / "report.html")
    assert "<title>quickstart: WER 62.7 %</title>" in (folder / "report.html").read_text()


def test_it_writes_the_page_where_it_is_told(tmp_path):
    folder = write_run(tmp_path / "quickstart", steps=25)
    assert typed("report", folder, "--to", tmp_path / "page.html").exit_code == 0
    assert (tmp_path / "page.html").exists()
    assert not (folder / "report.html").exists()


def test_a_folder_without_a_run_is_one_sentence(tmp_path):
    ran = typed("report", tmp_path)
    assert ran.exit_code == 5
    assert "no events.jsonl" in ran.stderr
