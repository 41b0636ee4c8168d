"""The guard of conftest.py: what reaches for another machine fails, what stays on this one works."""

import socket

import pytest


@pytest.mark.parametrize(
    "reach",
    [
        lambda s: s.connect(("192.0.2.1", 80)),  # RFC 5737: an address that is nobody's
        lambda s: s.connect_ex(("192.0.2.1", 80)),
        lambda s: socket.create_connection(("example.org", 80), timeout=0.1),
        lambda s: socket.getaddrinfo("example.org", 80),
        lambda s: socket.gethostbyname("example.org"),
    ],
)
def test_no_test_reaches_the_network(reach):
    with socket.socket() as one, pytest.raises(AssertionError, match="a test reached for the network"):
        reach(one)


def test_datagrams_are_held_back_too():
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one,
        pytest.raises(AssertionError, match="a test reached for the network: sendto to '192.0.2.1'"),
    ):
        one.sendto(b"hello", ("192.0.2.1", 9))


def test_this_machine_is_within_reach():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        with socket.create_connection(("localhost", server.getsockname()[1]), timeout=5) as one:
            assert one.getpeername()[0] == "127.0.0.1"
