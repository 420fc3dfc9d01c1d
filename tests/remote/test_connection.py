"""The way to a machine, against real SSH servers."""

import os
import subprocess
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from auricle.remote.connection import (
    CONFIG,
    MULTIPLEX,
    Connection,
    DiskFull,
    Refused,
    RemoteError,
    Unreachable,
    _rsync_failed,
    explained,
)
from auricle.remote.place import Place
from auricle.remote.project import Project
from auricle.remote.target import parse
from tests.hosts import host, needs_hosts, tools, use

pytestmark = needs_hosts


@pytest.fixture(scope="module")
def machines(tmp_path_factory):
    """Two with the same key, of which the second is reached through the first."""
    with host(tmp_path_factory.mktemp("vps")) as vps, host(tmp_path_factory.mktemp("pod"), key_of=vps) as pod:
        yield vps, pod


@pytest.fixture(params=["direct", "through a jump"])
def way(request, machines, tmp_path, monkeypatch):
    """→ (connection, the machine at its end); the project's path has spaces."""
    vps, pod = machines
    use(monkeypatch, vps)
    project = Project(tmp_path / "my project")
    project.root.mkdir()
    target = pod.target if request.param == "direct" else replace(pod.target, jump=vps.target)
    connection = Connection(target, project)
    yield connection, pod
    connection.close()


def test_a_script_arrives_as_it_is_and_its_output_and_code_come_back(way):
    connection, pod = way
    done = connection.run("""printf '%s|' "$HOME" 'a "b"' "c'd"; cat; echo no >&2; exit 3""", stdin=b"\0\xffin")
    assert done.stdout == f"""{pod.home}|a "b"|c'd|""".encode() + b"\0\xffin"
    assert (done.code, done.stderr) == (3, "no\n")
    with pytest.raises(RemoteError, match=r": no \(code 3\)"):
        connection.check("echo no >&2; exit 3")


def test_the_connection_stays_and_is_closed(way):
    connection, _ = way
    first, second = (connection.check("echo $SSH_CONNECTION") for _ in range(2))
    assert first == second
    connection.close()
    assert connection.check("echo $SSH_CONNECTION") != first


def test_two_machines_are_never_mixed_up(machines, tmp_path, monkeypatch):
    use(monkeypatch, machines[0])
    connections = [Connection(machine.target, Project(tmp_path)) for machine in machines]
    homes = [connection.check("echo $HOME").strip() for connection in connections]
    assert homes == [str(machine.home) for machine in machines]
    for connection in connections:
        connection.close()


def test_without_sockets_each_command_connects(way, monkeypatch):
    monkeypatch.setenv(MULTIPLEX, "no")
    plain = Connection(way[0].target, Project(Path.cwd()))
    plain._known_hosts = way[0]._known_hosts
    assert not any("Control" in word for word in plain.client())
    assert plain.check("echo $SSH_CONNECTION") != plain.check("echo $SSH_CONNECTION")


def test_a_socket_that_cannot_be_made_is_done_without(way, tmp_path):
    connection, _ = way
    connection._sockets = tmp_path / ("long" * 30)
    assert connection.check("echo in") == "in\n"
    assert connection._sockets is None


def test_host_keys_are_pinned_in_the_project_jumps_included(way):
    connection, _ = way
    connection.check("true")
    assert len(connection._known_hosts.read_text().splitlines()) == (2 if connection.target.jump else 1)


def test_a_host_key_that_changed_is_refused_and_the_pin_stays(way, tmp_path):
    connection, pod = way
    connection.check("true")
    connection.close()
    pinned = connection._known_hosts.read_text()
    other = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other], check=True)
    kind, key, *_ = other.with_suffix(".pub").read_text().split()
    mark = f"[{pod.server.address}]:{pod.server.port}"
    lines = [line for line in pinned.splitlines() if not line.startswith(mark)]
    changed = "\n".join([*lines, f"{mark} {kind} {key}"]) + "\n"
    connection._known_hosts.write_text(changed)
    with pytest.raises(Refused, match=r"its host key is not the one that was pinned.*ssh-keygen -R"):
        connection.run("true")
    assert connection._known_hosts.read_text() == changed


@pytest.mark.parametrize("where", ["the project's", "the user's own"])
@pytest.mark.parametrize(("whose", "kept"), [("the machine's", "yes"), ("a jump's", "yes"), ("a jump's", "no")])
def test_what_is_said_to_forget_a_host_key_does_so(machines, tmp_path, monkeypatch, where, whose, kept):
    vps, pod = machines
    use(monkeypatch, vps)
    monkeypatch.setenv(MULTIPLEX, kept)
    home = tmp_path / "it's me"
    (home / ".ssh").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    project = Project(tmp_path / "my project")
    project.root.mkdir()
    file = project.known_hosts if where == "the project's" else home / ".ssh" / "known_hosts"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "other"], check=True)
    old = pod if whose == "the machine's" else vps
    file.write_text(f"[{old.server.address}]:{old.server.port} {(tmp_path / 'other.pub').read_text()}")
    connection = Connection(replace(pod.target, jump=vps.target), project)
    with pytest.raises(Refused, match="host key is not the one that was pinned") as raised:
        connection.run("true")
    command = str(raised.value).partition("forget the old one: ")[2]
    subprocess.run(command, shell=True, cwd=project.root, check=True, capture_output=True)
    assert connection.check("echo in") == "in\n"
    connection.close()


def test_a_key_that_is_not_known_there_is_refused(machines, tmp_path, monkeypatch):
    with host(tmp_path / "stranger") as stranger:
        config = tmp_path / "config"
        ours = machines[0].server.client_config.parent / "key"
        config.write_text(stranger.server.client_config.read_text().replace(f"{tmp_path / 'stranger'}/key", str(ours)))
        monkeypatch.setenv(CONFIG, str(config))
        with pytest.raises(Refused, match=r"refused your key .*provider's settings"):
            Connection(stranger.target, Project(tmp_path)).run("true")


@pytest.fixture(params=["yes", "no"])
def kept(request, monkeypatch):
    """With a connection that stays, and without."""
    monkeypatch.setenv(MULTIPLEX, request.param)
    return request.param


def ask(connection):
    connection.run("true")


def move(connection):
    connection.rsync(["/dev/null", connection.remote("/tmp/")])


@pytest.mark.parametrize("do", [ask, move])
def test_a_jump_that_does_not_listen_is_told_as_such(kept, machines, tmp_path, monkeypatch, do):
    vps, pod = machines
    use(monkeypatch, vps)
    target = replace(pod.target, jump=replace(vps.target, port=1))
    with pytest.raises(Unreachable, match=rf"nothing listens on port 1 of {vps.target.host}; |broke off .*refused"):
        do(Connection(target, Project(tmp_path)))


def test_a_machine_that_does_not_listen_is_told_from_its_jump(kept, machines, tmp_path, monkeypatch):
    vps, pod = machines
    use(monkeypatch, vps)
    why = r" \(Connection refused\)" if kept == "yes" else ""
    with pytest.raises(Unreachable, match=f"its jump host is there and does not reach it{why}; .*provider's console"):
        Connection(replace(pod.target, port=1, jump=vps.target), Project(tmp_path)).run("true")


@pytest.mark.parametrize("do", [ask, move])
@pytest.mark.parametrize("depth", [1, 2])
def test_a_jump_that_does_not_know_the_key_is_told_as_such(kept, machines, tmp_path, monkeypatch, do, depth):
    vps, pod = machines
    with host(tmp_path / "stranger") as stranger:
        config, ours = tmp_path / "config", vps.server.client_config
        config.write_text(ours.read_text() + f"Host {stranger.server.address}\n  User root\n")
        monkeypatch.setenv(CONFIG, str(config))
        jump = stranger.target if depth == 1 else replace(vps.target, jump=stranger.target)
        with pytest.raises(Refused, match=rf"{pod.server.address}.*: refused your key \(.*Permission denied"):
            do(Connection(replace(pod.target, jump=jump), Project(tmp_path)))


def test_what_a_jump_said_once_is_not_said_again(machines, tmp_path, monkeypatch):
    vps, pod = machines
    use(monkeypatch, vps)
    connection = Connection(replace(pod.target, port=1, jump=vps.target), Project(tmp_path))
    connection._jump_log.write_text("Permission denied (publickey)\n")
    with pytest.raises(Unreachable, match="does not reach it"):
        connection.run("true")


def test_a_wrong_port_says_what_to_look_at(machines, tmp_path, monkeypatch):
    use(monkeypatch, machines[0])
    with pytest.raises(Unreachable, match=r"nothing listens on port 1; .*provider's console"):
        Connection(parse("127.0.0.1:1"), Project(tmp_path)).run("true")


def test_a_name_that_nobody_knows(machines, tmp_path, monkeypatch):
    use(monkeypatch, machines[0])
    with pytest.raises(Unreachable, match="no such host name"):
        Connection(parse("no-such-host.invalid"), Project(tmp_path)).run("true")


def test_a_command_that_takes_too_long_is_given_up(way):
    with pytest.raises(Unreachable, match="no answer within 1 s"):
        way[0].run("sleep 60", timeout=1)


def test_many_commands_at_once_share_a_connection(way):
    connection, _ = way
    said: list[str] = []
    threads = [threading.Thread(target=lambda n=n: said.append(connection.check(f"echo {n}"))) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(said) == sorted(f"{number}\n" for number in range(8))


def test_files_go_over_with_their_names(way, tmp_path):
    connection, pod = way
    here = tmp_path / "x y"
    here.mkdir()
    for name in ("it's \"x\"", "two words", "é"):
        (here / name).write_text("content")
    told: list[int] = []
    (pod.home / "a 'b' c").mkdir(exist_ok=True)
    there = connection.remote(f"{pod.home}/a 'b' c/{tmp_path.name}/")
    printed = connection.rsync(["-r", "--itemize-changes", f"{here}/", there], told.append)
    sent = {path.name for path in (pod.home / "a 'b' c" / tmp_path.name).iterdir()}
    assert sent == {path.name for path in here.iterdir()}
    assert sum(line.startswith("<f") for line in printed.splitlines()) == 3
    assert not any("%" in line for line in printed.splitlines())
    assert told[-1] == 3 * len("content")


def test_a_machine_without_rsync_is_told(machines, tmp_path, monkeypatch):
    path = tools(tmp_path / "bin", without=("rsync",))
    with host(tmp_path / "pod", path=path, key_of=machines[0]) as pod:
        use(monkeypatch, pod)
        connection = Connection(pod.target, Project(tmp_path))
        with pytest.raises(RemoteError, match=r"has no rsync; .*auricle remote deploy"):
            connection.rsync(["-r", f"{tmp_path}/bin/", connection.remote(f"{pod.home}/")])


def test_a_place_is_the_workspace_or_home_and_a_missing_one_is_told(way, monkeypatch):
    connection, pod = way
    place = Place(connection, Project(Path("/somewhere/my speech")))
    there = Path("/workspace") if os.access("/workspace", os.W_OK) else pod.home
    assert place.folder() == str(there / "my-speech")
    with pytest.raises(RemoteError, match="this project is not there; auricle remote deploy 127"):
        place.run("true")
    named = Place(connection, Project(Path("/x")), "~/two words")
    (pod.home / "two words").mkdir(exist_ok=True)
    assert named.run("pwd").text == f"{pod.home}/two words\n"
    with pytest.raises(RemoteError, match="the installation there is missing or was broken off"):
        named.auricle(["--version"])


RUNPOD = "Error: Your SSH client doesn't support PTY"


@pytest.mark.parametrize(("printed", "kind", "part"), [
    (RUNPOD, Refused, "SSH over exposed TCP"),
    ("Connection timed out during banner exchange", Unreachable, "is the machine running"),
    ("", Unreachable, "no answer"),
    ("Permissions 0644 for 'key' are too open.", Refused, "chmod 600"),
])
def test_what_ssh_says_becomes_what_to_do(printed, kind, part):
    error = explained(parse("ssh.runpod.io:22115"), printed)
    assert type(error) is kind
    assert part in str(error)


@pytest.mark.parametrize(("code", "printed", "kind"), [
    (10, "rsync: [sender] write error: Broken pipe (32)", Unreachable),
    (12, "rsync: connection unexpectedly closed (0 bytes received so far) [sender]", Unreachable),
    (30, "rsync error: timeout in data send/receive (code 30)", Unreachable),
    (11, "rsync: [receiver] write failed: No space left on device (28)", DiskFull),
    (23, 'rsync: [receiver] mkstemp "/a/b" failed: Permission denied (13)', RemoteError),
])
def test_what_rsync_says_becomes_what_to_do(code, printed, kind):
    assert type(_rsync_failed(parse("127.0.0.1:1"), printed, code)) is kind
