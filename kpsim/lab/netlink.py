"""Netlink for netfilter: sends questions to one of its subsystems in a namespace, and packs and unpacks the
attributes of messages.

Counterpart: libmnl and libnfnetlink. The subsystems' own modules know what their attributes mean.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence

from kpsim.lab.calls import LabError
from kpsim.lab.namespace import Namespace

NESTED = 0x8000  #: this bit in an attribute's kind says that it holds attributes

_NETLINK_NETFILTER = 12
_REQUEST, _ACKNOWLEDGE, _CREATE = 1, 4, 0x600
_ERROR_MESSAGE = 2
_HEADER, _SUBSYSTEM_HEADER = struct.Struct("=IHHII"), struct.Struct("=BBH")
_KIND_BITS = 0x3FFF
_ANSWER_TIMEOUT_S = 5
_AT_ONCE = 32  # so many questions: their answers fit into the socket's buffer


class Refused(LabError):
    """The kernel answered with an error. ``number`` is its errno."""

    def __init__(self, number: int) -> None:
        super().__init__(f"netlink: {os.strerror(number)}")
        self.number = number


class Netlink:
    """A connection to one subsystem of netfilter in one namespace. ``close`` it."""

    def __init__(self, namespace: Namespace, subsystem: int) -> None:
        self._subsystem = subsystem
        self._socket = namespace.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
        self._socket.settimeout(_ANSWER_TIMEOUT_S)

    def close(self) -> None:
        self._socket.close()

    def ask(
        self, verb: int, attributes: bytes = b"", *, family: int = socket.AF_UNSPEC, creates: bool = False
    ) -> bytes | None:
        """The attributes of the kernel's answer; None if it only acknowledges, or if the object does not exist.
        Refused for other errors.

        ``creates``: the object must not exist yet.
        """
        flags = _REQUEST | _ACKNOWLEDGE | (_CREATE if creates else 0)
        self._socket.send(self._message(verb, attributes, family, flags, 1))
        answer = None
        while True:
            for _, kind, content in self._messages():
                if kind == _ERROR_MESSAGE:
                    _check(content)
                    return answer
                answer = content

    def ask_all(self, verb: int, questions: Sequence[bytes], *, family: int) -> list[bytes | None]:
        """The answer to each question, as from ``ask``, but with fewer system calls. Each question must have exactly
        one answer.
        """
        answers: dict[int, bytes | None] = {}
        for first in range(0, len(questions), _AT_ONCE):
            some = range(first, min(first + _AT_ONCE, len(questions)))
            self._socket.send(b"".join(self._message(verb, questions[n], family, _REQUEST, n) for n in some))
            while len(answers) < some.stop:
                for number, kind, content in self._messages():
                    answers[number] = None if kind == _ERROR_MESSAGE and _check(content) else content
        return [answers[number] for number in range(len(questions))]

    def _message(self, verb: int, attributes: bytes, family: int, flags: int, number: int) -> bytes:
        body = _SUBSYSTEM_HEADER.pack(family, 0, 0) + attributes
        head = _HEADER.pack(_HEADER.size + len(body), self._subsystem << 8 | verb, flags, number, 0)
        return head + body + bytes(-len(body) % 4)

    def _messages(self) -> Iterator[tuple[int, int, bytes]]:
        """Reads messages; yields for each the number of its question, its kind and its content."""
        data = self._socket.recv(1 << 16)
        while data:
            length, kind, _, number, _ = _HEADER.unpack_from(data)
            begin = _HEADER.size + (0 if kind == _ERROR_MESSAGE else _SUBSYSTEM_HEADER.size)
            yield number, kind, data[begin:length]
            data = data[_aligned(length) :]


def _check(error: bytes) -> bool:
    """True for an acknowledgement, and if the object does not exist. Refused for every other error."""
    [number] = struct.unpack_from("=i", error)
    if -number not in (0, errno.ENOENT):
        raise Refused(-number)
    return True


def attribute(kind: int, data: bytes) -> bytes:
    """An attribute as bytes, padded as in a message."""
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def attributes(data: bytes) -> dict[int, bytes]:
    """The contents of attributes by their kinds, without the bits for nesting and byte order."""
    found = {}
    while data:
        length, kind = struct.unpack_from("=HH", data)
        found[kind & _KIND_BITS], data = data[4:length], data[_aligned(length) :]
    return found


def _aligned(length: int) -> int:
    return length + 3 & ~3
