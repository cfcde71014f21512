"""No test reaches beyond this machine: whoever tries fails, even where the code under test hides the error.

Connections to this machine (Jupyter kernels, Dask) and Unix sockets are free, and so is `connect` on a datagram socket,
which sends nothing (Dask asks it for the machine's own address). Child processes are out of reach of a patch; for them
`CHILDREN` points every HTTP client at a closed port.
"""

import socket
from typing import Any

CHILDREN = {
    "http_proxy": "http://127.0.0.1:9",
    "https_proxy": "http://127.0.0.1:9",
    "no_proxy": "localhost,127.0.0.1,::1",
}
CHILDREN |= {name.upper(): value for name, value in CHILDREN.items()}
_HERE = ("localhost", "::1", "0.0.0.0", "")
_connect, _connect_ex = socket.socket.connect, socket.socket.connect_ex

# Where the running test wanted to connect to.
attempts: list[str] = []


class NetworkAttemptError(RuntimeError):
    """A test wanted to connect to another machine."""


def _check(inst: socket.socket, address: Any) -> None:
    if inst.family not in (socket.AF_INET, socket.AF_INET6) or inst.type & socket.SOCK_DGRAM == socket.SOCK_DGRAM:
        return
    host = address[0] if isinstance(address, tuple) else address
    if str(host) in (*_HERE, socket.gethostname()) or str(host).startswith("127."):
        return
    attempts.append(f"{host}:{address[1]}")
    raise NetworkAttemptError(f"a test wants to connect to {host}:{address[1]}; tests stay on this machine")


def _guarded(inst: socket.socket, address: Any) -> None:
    _check(inst, address)
    return _connect(inst, address)


def _guarded_ex(inst: socket.socket, address: Any) -> int:
    _check(inst, address)
    return _connect_ex(inst, address)


def forbid() -> None:
    """Put the guard in place; pytest-socket takes its own, and this one, away after every test."""
    socket.socket.connect = _guarded
    socket.socket.connect_ex = _guarded_ex
