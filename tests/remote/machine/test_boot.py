"""Where the line that goes on with runs is put, and that a shell runs it."""

import subprocess
from pathlib import Path

import pytest

from auricle.remote.machine import boot
from tests.remote.machine.trainers import wait_for

RUNPOD_START = 'execute_script "/post_start.sh" "Running post-start script..."\nsleep infinity\n'


@pytest.fixture
def install(tmp_path, monkeypatch):
    """boot.install on a machine with nothing; → by which means."""
    monkeypatch.setattr(boot, "_runs_cron", lambda: True)

    def call(**given: Path | str) -> str | None:
        project = tmp_path / "my 'own' project"
        project.mkdir(exist_ok=True)
        settings = {"vast": tmp_path / "no" / "onstart.sh", "runpod": tmp_path / "no" / "post_start.sh",
                    "runpod_start": tmp_path / "no" / "start.sh", "crontab": "no-crontab", **given}
        return boot.install(project, **settings)

    return call


def test_a_machine_without_any_means_has_none(install):
    assert install() is None


@pytest.mark.parametrize("before", ["#!/bin/bash\nsleep infinity\n", "touch /tmp/x", "", "#!/bin/bash"])
def test_vast_ai_runs_its_onstart_script(install, tmp_path, before):
    script = tmp_path / "onstart.sh"
    script.write_text(before)
    assert install(vast=script) == str(script)
    text = script.read_text()
    assert install(vast=script) == str(script)
    assert script.read_text() == text  # once
    assert text.count(boot.MARK) == 1
    assert text.startswith("#!/bin/bash\n(cd ")
    assert text.removeprefix("#!/bin/bash\n").partition("\n")[2] in (before, before.removeprefix("#!/bin/bash\n"), "")
    assert script.stat().st_mode & 0o100
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0


def test_the_images_of_runpod_run_a_script_that_we_make(install, tmp_path):
    start, post = tmp_path / "start.sh", tmp_path / "post_start.sh"
    start.write_text(RUNPOD_START)
    assert install(runpod=post, runpod_start=start) == str(post)
    assert post.read_text().startswith("#!/bin/bash\n(cd ")
    start.write_text("sleep infinity\n")  # another image
    post.unlink()
    assert install(runpod=post, runpod_start=start) is None


def test_what_cannot_be_written_is_no_means(install, tmp_path):
    script = tmp_path / "onstart.sh"
    script.mkdir()
    assert install(vast=script) is None
    start = tmp_path / "start.sh"
    start.write_text(RUNPOD_START)
    assert install(runpod=tmp_path / "no" / "post_start.sh", runpod_start=start) is None


def test_cron_keeps_what_it_had(install, tmp_path, monkeypatch):
    table, crontab = tmp_path / "table", tmp_path / "crontab"
    crontab.write_text(f'#!/bin/sh\ncase "$1" in -l) cat {table} 2>/dev/null;; -) cat > {table}.new; '
                       f"mv {table}.new {table};; esac\n")
    crontab.chmod(0o755)
    assert install(crontab=str(crontab)) == "cron"  # with no table yet
    table.write_text("5 4 * * * backup\n")
    assert install(crontab=str(crontab)) == "cron"
    text = table.read_text()
    assert text.startswith("5 4 * * * backup\n")
    assert sum(line.startswith("@reboot (cd ") for line in text.splitlines()) == 1
    assert install(crontab=str(crontab)) == "cron"
    assert table.read_text() == text
    monkeypatch.setattr(boot, "_runs_cron", lambda: False)
    assert install(crontab=str(crontab)) is None  # nobody reads the table


def test_two_projects_of_one_machine_both_go_on(tmp_path):
    script = tmp_path / "onstart.sh"
    script.write_text("#!/bin/bash\n")
    for name in ("a", "b", "a"):
        (tmp_path / name).mkdir(exist_ok=True)
        boot.install(tmp_path / name, vast=script)
    assert script.read_text().count(boot.MARK) == 2


def test_the_line_runs_the_verb_in_the_project_and_returns_at_once(tmp_path, monkeypatch):
    project = tmp_path / "my 'own' project"
    (project / ".auricle").mkdir(parents=True)
    python = tmp_path / "python of its own"
    python.write_text('#!/bin/sh\necho "$PWD $*"\nsleep 5\n')
    python.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(python))
    subprocess.run(["sh", "-c", boot.line(project)], check=True, timeout=4)
    log = project / ".auricle" / "boot.log"
    wait_for(lambda: log.exists() and log.read_text().endswith("\n"))
    assert log.read_text() == f"{project.resolve()} -m auricle remote machine boot\n"
