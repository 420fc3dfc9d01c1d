"""Which machine: `HOST PORT`, `[user@]host[:port]`, or an alias of ~/.ssh/config, perhaps through a jump host."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from auricle.core.errors import UsageError

ADDRESS = re.compile(r"(?:(?P<user>[^@\s:/]+)@)?(?P<host>\[[0-9A-Fa-f:.%]+\]|[^@\s:/\[\]]+)(?::(?P<port>\d+))?")
EXPECTED = "expected HOST PORT, user@host:port, or an alias of ~/.ssh/config"


@dataclass(frozen=True, kw_only=True)
class Target:
    """A machine as ssh finds it. What is None, ~/.ssh/config decides."""

    host: str
    user: str | None = None
    port: int | None = None
    jump: "Target | None" = None

    def __str__(self) -> str:
        """As it may be typed again, without the jump.

        >>> str(Target(host="10.0.0.7", user="root", port=22115))
        'root@10.0.0.7:22115'
        """
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.login}{host}{f':{self.port}' if self.port else ''}"

    @property
    def login(self) -> str:
        return f"{self.user}@" if self.user else ""

    @property
    def via(self) -> str | None:
        """The jump hosts as `--jump` takes them, the one that is reached first at the front."""
        if self.jump is None:
            return None
        return ",".join(filter(None, (self.jump.via, str(self.jump))))

    @property
    def typed(self) -> str:
        """As the arguments of a verb, with the jump.

        >>> Target(host="pod", port=22, jump=Target(host="vps")).typed
        'pod:22 --jump vps'
        """
        return f"{self}{f' --jump {self.via}' if self.via else ''}"

    @property
    def name(self) -> str:
        """As a file name."""
        return re.sub(r"[^A-Za-z0-9.@-]+", "_", str(self))


def parse(address: str) -> Target:
    """Raises UsageError.

    >>> parse("root@10.0.0.7:22115")
    Target(host='10.0.0.7', user='root', port=22115, jump=None)
    """
    found = ADDRESS.fullmatch(address)
    if not found or address.startswith("-"):
        raise UsageError(f"target '{address}': not an address; {EXPECTED}")
    port = _port(found["port"], address) if found["port"] else None
    return Target(host=found["host"].strip("[]"), user=found["user"], port=port)


def parse_all(words: Iterable[str], jump: str | None = None) -> list[Target]:
    """Targets of a command line: a word of digits is the port of the address before it. Raises UsageError.

    >>> [str(target) for target in parse_all(["10.0.0.7", "22115", "root@10.0.0.8:22"])]
    ['10.0.0.7:22115', 'root@10.0.0.8:22']
    """
    via = jumps(jump)
    found: list[Target] = []
    for word in words:
        if not word.isdigit():
            found.append(replace(parse(word), jump=via))
        elif not found or found[-1].port is not None:
            raise UsageError(f"target '{word}': a port without a host before it; {EXPECTED}")
        else:
            found[-1] = replace(found[-1], port=_port(word, f"{found[-1]} {word}"))
    return found


def parse_first(words: Sequence[str], jump: str | None = None) -> tuple[Target, list[str]]:
    """The machine that a command line begins with, and the words after it. Raises UsageError."""
    if not words:
        raise UsageError(f"no machine is named; {EXPECTED}")
    count = 2 if len(words) > 1 and words[1].isdigit() and parse(words[0]).port is None else 1
    return parse_all(words[:count], jump)[0], list(words[count:])


def jumps(text: str | None) -> Target | None:
    """The last of several jump hosts, each reached through the one before it: a@b,c@d. Raises UsageError."""
    found: Target | None = None
    for address in text.split(",") if text else ():
        found = replace(parse(address), jump=found)
    return found


def _port(text: str, where: str) -> int:
    if not 0 < int(text) < 65536:
        raise UsageError(f"target '{where}': no port is {text}; expected 1 to 65535")
    return int(text)
