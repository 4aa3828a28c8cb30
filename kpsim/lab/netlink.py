"""Netfilter's netlink: questions to one of its subsystems in a namespace, and the attributes that questions and answers consist of.

Counterpart: libmnl and libnfnetlink. What attributes mean to a subsystem this module never knows.
"""

import errno
import os
import socket
import struct

from kpsim.lab.namespace import LabError, Namespace

NESTED = 0x8000  #: set in the kind of an attribute that consists of attributes

_NETLINK_NETFILTER = 12
_REQUEST, _ACKNOWLEDGE = 1, 4
_ERROR_MESSAGE = 2
_HEADER, _SUBSYSTEM_HEADER = struct.Struct("=IHHII"), struct.Struct("=BBH")
_KIND_BITS = 0x3FFF
_ANSWER_TIMEOUT_S = 5


class Refused(LabError):
    """The kernel's answer is an error, ``number`` in errno's terms."""

    def __init__(self, number: int) -> None:
        super().__init__(f"netlink: {os.strerror(number)}")
        self.number = number


class Netlink:
    """A subsystem of netfilter in one namespace. ``close`` it."""

    def __init__(self, namespace: Namespace, subsystem: int) -> None:
        self._subsystem = subsystem
        self._socket = namespace.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
        self._socket.settimeout(_ANSWER_TIMEOUT_S)

    def close(self) -> None:
        self._socket.close()

    def ask(self, verb: int, attributes: bytes = b"", *, family: int = socket.AF_UNSPEC) -> bytes | None:
        """The attributes that the kernel answers; None if it only acknowledges, or knows of no such thing. Refused otherwise."""
        body = _SUBSYSTEM_HEADER.pack(family, 0, 0) + attributes
        kind = self._subsystem << 8 | verb
        self._socket.send(_HEADER.pack(_HEADER.size + len(body), kind, _REQUEST | _ACKNOWLEDGE, 1, 0) + body)
        answer = None
        while True:
            data = self._socket.recv(1 << 16)
            while data:
                length, kind = struct.unpack_from("=IH", data)
                if kind == _ERROR_MESSAGE:
                    [error] = struct.unpack_from("=i", data, _HEADER.size)
                    if -error not in (0, errno.ENOENT):
                        raise Refused(-error)
                    return answer
                answer = data[_HEADER.size + _SUBSYSTEM_HEADER.size : length]
                data = data[_aligned(length) :]


def attribute(kind: int, data: bytes) -> bytes:
    """As it stands in a message."""
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def attributes(data: bytes) -> dict[int, bytes]:
    """Contents by kind, the marks for nesting and byte order left out."""
    found = {}
    while data:
        length, kind = struct.unpack_from("=HH", data)
        found[kind & _KIND_BITS], data = data[4:length], data[_aligned(length) :]
    return found


def _aligned(length: int) -> int:
    return length + 3 & ~3
