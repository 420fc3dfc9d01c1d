"""The hub, as a small server on this machine that first has no time."""

import base64
import contextlib
import json
import shutil
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from auricle.core.errors import CheckpointError, ConfigError
from auricle.store import hub
from auricle.store.hub import HubCopy, refuse_without_token
from auricle.store.targets import MirrorError
from tests.mirrored import add_checkpoint, make_run


class FakeHub(BaseHTTPRequestHandler):
    """Takes commits whose files come inline; answers `refusals` first."""

    def do_GET(self):
        if "/tree/" in self.path:
            self.reply(200, [{"type": "file", "path": name, "oid": "0", "size": len(content)}
                             for name, content in self.server.files.items()])
        else:
            self.reply(200, {"id": "me/speech", "sha": "0" * 40, "siblings": [
                {"rfilename": name} for name in self.server.files]})

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.server.refusals:
            self.reply(self.server.refusals.pop(0), {"error": "not now"})
        elif self.path.endswith("/validate-yaml"):
            errors = [{"message": "no such language"}] if "bad: head" in json.loads(body)["content"] else []
            self.reply(400 if errors else 200, {"errors": errors, "warnings": []})
        elif "/preupload/" in self.path:
            self.reply(200, {"files": [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                                       for file in json.loads(body)["files"]]})
        elif "/commit/" in self.path:
            self.commit(body)
        else:
            self.server.created = json.loads(body)
            self.reply(200, {"url": f"{self.server.url}/me/speech", "name": "me/speech"})

    def commit(self, body):
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "deletedFile":
                del self.server.files[line["value"]["path"]]
        self.server.commits += 1
        self.reply(200, {"commitUrl": f"{self.server.url}/me/speech/commit/1", "commitOid": "1" * 40, "success": True})

    def reply(self, code, body):
        content = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *given):
        """Quiet."""


@pytest.fixture
def server(monkeypatch):
    with ThreadingHTTPServer(("127.0.0.1", 0), FakeHub) as server:
        server.refusals, server.files, server.commits, server.created = [], {}, 0, None
        url = server.url = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        for module in ("huggingface_hub.constants", "huggingface_hub.hf_api"):
            with contextlib.suppress(AttributeError):
                monkeypatch.setattr(f"{module}.ENDPOINT", url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def run(tmp_path):
    run = make_run(tmp_path / "run")
    add_checkpoint(run, 100, part=b"frozen", best=True)
    return run


def card(run_folder, checkpoint, repository):
    return f"# {repository}, {checkpoint.name} of {run_folder.name}\n"


def copy(run, said=None, card=card):
    return HubCopy(run, "me/speech", card=card, report=(said if said is not None else []).append)


def test_the_model_arrives_whole_in_one_commit_without_the_state_of_training(server, run):
    add_checkpoint(run, 200)
    copy(run).push(ended=False)
    part = next((run / "checkpoints/parts").iterdir()).name
    assert set(server.files) == {
        "README.md", "config.json", "ctc_head.safetensors", f"parts/{part}/weights.safetensors"}
    best = run / "checkpoints/step-000000100"
    assert server.files["ctc_head.safetensors"] == (best / "ctc_head.safetensors").read_bytes()
    assert server.commits == 1
    assert server.created["visibility" if "visibility" in server.created else "private"] in (True, "private")
    assert not (run / "mirrors" / "hub.held").exists()


def test_it_commits_again_when_the_best_changes_and_only_then(server, run):
    for _ in range(2):
        copy(run).push(ended=False)
    add_checkpoint(run, 200, best=True)
    copy(run).push(ended=True)
    assert server.commits == 2
    assert set(server.files) == {"README.md", "config.json", "ctc_head.safetensors"}
    assert server.files["README.md"] == b"# me/speech, step-000000200 of run\n"
    record = json.loads((run / "mirrors/hub.json").read_text())
    assert (record["checkpoint"], record["error"]) == ("step-000000200", None)


@pytest.mark.parametrize("case", ["there already", "pruned meanwhile", "no checkpoint", "failed before"])
def test_that_nothing_is_left_to_do_is_on_record_after_the_end(server, run, monkeypatch, case):
    """A guard waits for a look after the end before it ends the machine."""
    if case == "no checkpoint":
        shutil.rmtree(run / "checkpoints")
        (run / "best.json").unlink()
    else:
        copy(run).push(ended=False)
    path = run / "mirrors" / "hub.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    if case == "failed before":
        path.write_text(json.dumps({**before, "tries": 2, "error": "no route"}))
    if case == "pruned meanwhile":
        add_checkpoint(run, 200, best=True)
        monkeypatch.setattr(HubCopy, "_write_card", lambda *_: shutil.rmtree(run / "checkpoints/step-000000200"))
        monkeypatch.setattr(HubCopy, "_commit", gone)
    began = time.time()
    copy(run).push(ended=False)
    assert path.exists() == (case != "no checkpoint")
    assert not path.exists() or json.loads(path.read_text())["time"] < began
    if case == "pruned meanwhile":
        add_checkpoint(run, 200, best=True)
    copy(run).follow(lambda: False)
    record = json.loads(path.read_text())
    assert record["time"] >= began
    assert (record["tries"], record["error"]) == (0, None)
    assert record["checkpoint"] == before.get("checkpoint")
    assert server.commits == (case != "no checkpoint")


def gone(*_):
    raise CheckpointError("step-000000200: weights are gone")


def test_without_an_evaluation_the_newest_arrives_at_the_end(server, run):
    (run / "best.json").unlink()
    add_checkpoint(run, 200)
    copy(run).push(ended=False)
    assert server.commits == 0
    copy(run).push(ended=True)
    assert json.loads((run / "mirrors/hub.json").read_text())["checkpoint"] == "step-000000200"


@pytest.mark.filterwarnings("ignore")
def test_a_hub_that_has_no_time_gets_the_commit_later(server, run, monkeypatch):
    monkeypatch.setattr(hub, "LONGEST_WAIT_SECONDS", 0.1)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    server.refusals = [503] * 12
    copy(run).follow(lambda: False)
    assert server.commits == 1
    assert server.refusals == []


@pytest.mark.parametrize("code", [401, 403, 404])
def test_what_is_refused_is_reported_once_and_tried_again_slowly(server, run, code):
    said = []
    server.refusals = [code] * 9
    one = copy(run, said)
    for _ in range(2):
        with pytest.raises(MirrorError) as caught:
            one.push(ended=False)
    assert hub._pause(caught.value) == hub.REFUSED_SECONDS
    record = json.loads((run / "mirrors/hub.json").read_text())
    assert "hf auth login" in record["error"]
    assert record["tries"] == 2
    assert len(said) == 1


def broken_card(run_folder, checkpoint, repository):
    raise KeyError("no such fact")


def refused_card(run_folder, checkpoint, repository):
    return "---\nbad: head\n---\n"


@pytest.mark.parametrize(("card", "why"), [
    (broken_card, "KeyError: 'no such fact'"), (refused_card, "Invalid metadata in README.md. - no such language"),
])
def test_a_model_whose_card_fails_arrives_without_it_and_that_is_on_record(server, run, card, why):
    said = []
    copy(run, said, card).push(ended=False)
    assert "ctc_head.safetensors" in server.files
    assert "README.md" not in server.files
    record = json.loads((run / "mirrors/hub.json").read_text())
    assert record["error"] == f"hub repository 'me/speech': the model is there without its card ({why}); " \
                              "please report this"
    assert (record["checkpoint"], record["tries"]) == ("step-000000100", 0)
    assert said[-1] == record["error"]
    copy(run, said, card).push(ended=True)
    assert server.commits == 1
    assert json.loads((run / "mirrors/hub.json").read_text())["error"] == record["error"]


def test_a_hub_that_refuses_the_upload_is_not_taken_for_one_that_refuses_the_card(server, run, monkeypatch):
    tried = []

    def refuse(*given, **named):
        tried.append(named)
        if len(tried) == 1:
            raise ValueError("another mistake")

    monkeypatch.setattr("huggingface_hub.HfApi.upload_folder", refuse)
    with pytest.raises(MirrorError, match="another mistake"):
        copy(run).push(ended=False)
    assert len(tried) == 1


def test_without_a_token_training_is_refused_before_it_begins(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    refuse_without_token("me/speech")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="hub_model_id is 'me/speech', but there is no token for the hub; set "):
        refuse_without_token("me/speech")
