"""A Python for machines of tests whose environments are made in no time: its pip notes what it is asked for.

In the project's folder there, `.auricle/pip-calls` has a line a call. While `.auricle/pip-waits` exists pip goes on,
`.auricle/pip-fills` makes it fill the disk, and with `.auricle/pip-fails` it prints that file and fails.
`.auricle/sees-gpu` makes its torch see one.
"""

import sys
from pathlib import Path

VERSION = "3.11.99"
INSIDE = f"""#!/bin/sh
case "$*" in
*"-m pip install"*)
  echo "$*" >> .auricle/pip-calls
  echo "Collecting things"
  while [ -f .auricle/pip-waits ]; do sleep 0.1; done
  if [ -f .auricle/pip-fills ]; then cat /dev/zero > .auricle/filler; fi
  if [ -f .auricle/pip-fails ]; then cat .auricle/pip-fails; exit 1; fi;;
*"import torch"*|*"torch.__version__"*)
  [ -f .auricle/sees-gpu ] && sees=true || sees=false
  echo '{{"torch": "2.13.0+stub", "sees_gpu": '$sees'}}';;
*"-m auricle --version"*) [ -f .auricle/no-auricle ] && echo "No module named auricle" && exit 1; echo "auricle 0.1";;
*"sys.version_info"*) printf '%s' {VERSION};;
*) exit 1;;
esac
"""


def stub_python(folder: Path) -> str:
    """A script for `tests.hosts.tools(also={"python3.11": …})`; `folder` keeps what it needs."""
    folder.mkdir(parents=True, exist_ok=True)
    inside = folder / "inside"
    inside.write_text(INSIDE)
    inside.chmod(0o755)
    real = Path(sys.base_prefix) / "bin" / "python3"
    return f"""case "$1 $2" in
"-m venv") mkdir -p "$3/bin" && cp {inside} "$3/bin/python";;
*ensurepip*) printf '%s venv' {VERSION};;
*) exec {real} "$@";;
esac"""
