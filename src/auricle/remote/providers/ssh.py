"""A host that you named: it is reached by SSH alone, so it can be neither rented nor released from here."""

from auricle.remote.providers import Environ, Inside, Offer, ProviderError, Rented, Wanted

HINT = "name a provider: --provider runpod, vast or lambda_cloud"


class Ssh:
    name = "ssh"
    can_stop = False
    billing = "A host that you named yourself is billed by whoever it is from: nothing is ended from here."

    def offers(self, wanted: Wanted) -> list[Offer]:
        raise ProviderError(f"ssh: offers nothing for rent, also no {wanted.gpu}; {HINT}")

    def rent(self, *_: object, **__: object) -> Rented:
        raise ProviderError(f"ssh: rents nothing; {HINT}")

    def find(self, run: str | None = None, *, foreign: bool = False) -> list[Rented]:  # noqa: ARG002
        return []

    def release(self, machine_id: str, *, keep_disk: bool) -> None:  # noqa: ARG002
        raise ProviderError(f"{machine_id}: a host that was named by its address cannot be released from here; end it "
                            "in your provider's console")


def connect(_: Environ) -> Ssh:
    return Ssh()


def inside(_: Environ) -> Inside | None:
    return None
