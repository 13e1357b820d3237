"""The ports of a server: whose they are, and that they are kept."""

from __future__ import annotations

import os
import socket

import pytest

from registry.errors import ConfigInvalid
from serving.fleet.ports import addresses, held, holder_of, listeners
from serving.settings import ServingSettings


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_a_name_is_bound_on_every_address_that_it_means() -> None:
    """`localhost` is both families where this machine has both; each of them accepts."""
    settings = ServingSettings(host="localhost", port=free_port())
    made = listeners(settings)
    assert {listener.family for listener in made} == {family for family, _ in addresses("localhost", 0)}
    for listener in made:
        listener.listen()
        with socket.create_connection(listener.getsockname()[:2], timeout=5):
            pass
        listener.close()


def test_a_port_in_use_is_refused_with_its_holder() -> None:
    """Whether it is that of HTTP or of gRPC; the message names setting, port and process."""
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        assert holder_of(port).startswith(f"process {os.getpid()} (")
        for wanted in ({"port": port}, {"port": free_port(), "grpc_port": port}):
            with pytest.raises(ConfigInvalid) as caught, held(ServingSettings(**wanted)):
                raise AssertionError("it was given away")
            name = "grpc_port" if "grpc_port" in wanted else "port"
            assert f"serving.{name} = {port} cannot be bound" in str(caught.value)
            assert f"by process {os.getpid()} (" in str(caught.value)


def test_a_kept_port_is_for_one_server() -> None:
    """Its own sockets join it; another server is refused before anybody listens, and gets it when it is given up."""
    settings = ServingSettings(port=free_port(), workers=2)
    with held(settings):
        for listener in (*listeners(settings), *listeners(settings)):
            listener.listen()
            listener.close()
        with pytest.raises(ConfigInvalid), held(settings):
            raise AssertionError("it was given away")
    with held(settings):
        pass


def test_an_address_of_another_machine_is_refused() -> None:
    """With the reason of the system, and nobody to blame."""
    with pytest.raises(ConfigInvalid) as caught, held(ServingSettings(host="192.0.2.1", port=free_port())):
        raise AssertionError("it was given away")
    assert "by process" not in str(caught.value)
