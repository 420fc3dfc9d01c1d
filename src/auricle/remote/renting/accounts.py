"""The providers that there is a key for."""

from collections.abc import Mapping

from auricle.core.folder import find, names
from auricle.remote.providers import Provider, ProviderError

BY_HAND = "ssh"
"""The provider of hosts that were named: there is nothing to ask it."""


def provider_of(name: str, environ: Mapping[str, str]) -> Provider:
    """Raises ConfigError for an unknown name, ProviderError where its key is missing."""
    return find("remote.providers", name).connect(environ)


def with_keys(environ: Mapping[str, str]) -> list[Provider]:
    """All that can be asked. Raises ProviderError for a key that is none."""
    found = []
    for provider in connected(environ).values():
        if isinstance(provider, ProviderError):
            raise provider
        found.append(provider)
    return found


def connected(environ: Mapping[str, str]) -> dict[str, Provider | ProviderError]:
    """Name → each provider whose key is set, or what is wrong with that key."""
    from auricle.remote.providers.parts.http import NoKey

    found: dict[str, Provider | ProviderError] = {}
    for name in names("remote.providers"):
        if name != BY_HAND:
            try:
                found[name] = provider_of(name, environ)
            except NoKey:
                continue
            except ProviderError as error:
                found[name] = error
    return found
