"""As much of the Hugging Face hub as listing and reading a data set asks for: one repository, from a folder."""

import json
from typing import Any

from tests.ranges import RangeServer

REPOSITORY = "lab/corpus"


def be_the_hub(server: RangeServer) -> None:
    """Has a server answer for `hf://datasets/lab/corpus`, whose content is its folder."""
    tree, files = f"/api/datasets/{REPOSITORY}/tree/main", f"/datasets/{REPOSITORY}/resolve/main/"

    def answer(request: Any) -> bool:
        path = request.path.partition("?")[0]
        if path.startswith(files):
            request._serve_file(server.folder / path.removeprefix(files), request.headers.get("Range", ""),
                                body=request.command != "HEAD", cut=False)
        elif path.startswith(tree):
            _json(request, [_entry(server, item) for item in
                            sorted((server.folder / path.removeprefix(tree).strip("/")).iterdir())])
        elif path.startswith(f"/api/datasets/{REPOSITORY}"):
            _json(request, {"id": REPOSITORY, "sha": "b" * 40, "siblings": [], "private": False, "tags": []})
        else:
            request.status(404)
        return True

    server.answer = answer


def _entry(server: RangeServer, item: Any) -> dict[str, Any]:
    return {"type": "file" if item.is_file() else "directory", "oid": f"{hash(item.name) % 16**40:040x}",
            "size": item.stat().st_size, "path": item.relative_to(server.folder).as_posix()}


def _json(request: Any, values: Any) -> None:
    request.status(200, json.dumps(values).encode(), Content_Type="application/json")
