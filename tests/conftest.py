"""What tests in several files ask for; and no test reaches the network: sockets connect to this machine only."""

import ipaddress
import os
import socket

import pytest

from latentopt import checkpoints

os.environ.setdefault("LATENTOPT_PLUGINS", "std")  # whatever else is installed beside it


class NetworkError(AssertionError):
    """A test tried to reach another machine."""


def is_here(host):
    """Whether an address is this machine's own."""
    if host in (None, "", "localhost", b"localhost"):
        return True
    try:
        return ipaddress.ip_address(host.decode() if isinstance(host, bytes) else host).is_loopback
    except ValueError:
        return False


@pytest.fixture(autouse=True, scope="session")
def no_network():
    """Connecting, sending and looking names up fail for all but this machine."""
    with pytest.MonkeyPatch.context() as patch:

        def guard(owner, name, host_of):
            real = getattr(owner, name)

            def guarded(*arguments, **more):
                host = host_of(arguments)
                if not is_here(host):
                    raise NetworkError(f"a test reached for the network: {name} to {host!r}")
                return real(*arguments, **more)

            patch.setattr(owner, name, guarded)

        def address(arguments):
            """The host of what a socket connects or sends to; files on this machine have none."""
            own, *rest = arguments
            return rest[-1][0] if own.family != socket.AF_UNIX else None

        for name in ("connect", "connect_ex", "sendto"):
            guard(socket.socket, name, address)
        for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex"):
            guard(socket, name, lambda arguments: arguments[0])
        yield


@pytest.fixture
def every_step(monkeypatch):
    """A checkpoint at every step."""
    monkeypatch.setattr(checkpoints.Checkpoints, "due", lambda self: True)
