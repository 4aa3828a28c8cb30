"""Packets with known fates, sent before and after every batch: a lab that does not see them as they must be sees nothing.

Counterpart: the canaries of kube-proxy, which prove that nobody flushed its tables. Their addresses are those of benchmarking networks (RFC 2544,
RFC 5180), so that no cluster's rules mean them. They say nothing about the rules under test.
"""

from collections.abc import Sequence
from typing import NamedTuple

from kpsim.addresses import Family, format_ip, parse_ip
from kpsim.lab.namespace import LabError
from kpsim.lab.node import LabNode
from kpsim.lab.wires import Heard, Shot, Sighting, Where
from kpsim.packet import Packet

_PORT = 9  # discard
_COMMENT = "kpsim canary"
_NETWORK = {Family.IPV4: "198.18.255.", Family.IPV6: "2001:2:0:ff::"}
_CLIENT, _TRANSLATED, _REJECTED, _DROPPED, _POD, _ENDPOINT = 1, 2, 3, 4, 5, 129
_UNREACHABLE = {Family.IPV4: ("icmp", 3, 3), Family.IPV6: ("icmpv6", 1, 4)}


class BlindLab(LabError):
    """A canary's fate was not seen as it must be: whatever else was seen is no measurement."""


class Canary(NamedTuple):
    """A packet and where, or as what, it must be seen; empty: nowhere."""

    name: str
    shot: Shot
    seen: str


def _address(family: Family, number: int) -> int:
    parsed = parse_ip(f"{_NETWORK[family]}{number if family is Family.IPV4 else format(number, 'x')}")
    assert parsed is not None
    return parsed[1]


def guarded(rules: str, family: Family) -> str:
    """An iptables-save text with the canaries' rules in front of everything that each chain says."""
    client, translated, rejected, dropped, pod, endpoint = (
        format_ip(family, _address(family, number))
        for number in (_CLIENT, _TRANSLATED, _REJECTED, _DROPPED, _POD, _ENDPOINT)
    )  # fmt: skip
    target = f"[{endpoint}]:{_PORT}" if family is Family.IPV6 else f"{endpoint}:{_PORT}"
    wanted = {
        "filter": [
            f"INPUT -s {client} -p udp --dport {_PORT} -j ACCEPT",
            f"FORWARD -d {rejected} -j REJECT", f"FORWARD -d {dropped} -j DROP",
            f"FORWARD -d {endpoint} -j ACCEPT", f"FORWARD -s {endpoint} -j ACCEPT", f"FORWARD -d {pod} -j ACCEPT",
        ],
        "nat": [f"PREROUTING -d {translated} -p udp -j DNAT --to-destination {target}"],
    }  # fmt: skip
    lines, table, done = [], "", set()
    for line in rules.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith(("-", "COMMIT")) and table in wanted and table not in done:
            done.add(table)
            lines += [f'-A {rule} -m comment --comment "{_COMMENT}"' for rule in wanted[table]]
        lines.append(line)
    missing = "".join(f"*{name}\nCOMMIT\n" for name in wanted if name not in done)
    text = "".join(f"{line}\n" for line in lines)
    return guarded(text + missing, family) if missing else text


def without_canaries(saved: str) -> str:
    """The text that a tool saved, without the canaries' rules."""
    return "".join(line for line in saved.splitlines(keepends=True) if _COMMENT not in line)


class Canaries:
    """The canaries of one node. Each flock has ports of its own, so that no connection is known."""

    def __init__(self, node: LabNode) -> None:
        self._node = node
        self._port = 0
        self._pods = [i.name for i in node.machine.routing.interfaces.values() if i.has_pods and i.up]
        if self._pods:
            node.add_pod(self._pods[0], _address(node.family, _POD))

    def flock(self) -> list[Canary]:
        """One of each kind; the last one is seen."""
        self._port = self._port % 50000 + 1
        found = [self._canary("rejected", _REJECTED, "unreachable"), self._canary("dropped", _DROPPED, "")]
        machine = self._node.machine
        for own in machine.routing.interfaces[machine.uplink].of(self._node.family)[:1]:
            found.append(self._canary("delivered to the node", own.value, Where.SOCKET))
        if self._pods:
            found.append(self._canary("delivered to a pod", _POD, Where.POD))
        return [*found, self._canary("translated", _TRANSLATED, Where.LINK)]

    def _canary(self, name: str, number: int, seen: str) -> Canary:
        family = self._node.family
        daddr = _address(family, number) if number < 256 else number
        packet = Packet(
            family, "udp", _address(family, _CLIENT), daddr, 1024 + self._port, _PORT, in_interface=self._node.machine.uplink
        )  # fmt: skip
        return Canary(name, Shot(packet), seen)

    def check(self, flock: Sequence[Canary], heard: Sequence[Heard]) -> None:
        """BlindLab unless each was seen as it must be, and nothing besides."""
        for canary, each in zip(flock, heard, strict=True):
            seen = {self._word(sighting) for sighting in each.sightings}
            if canary.seen == Where.SOCKET:
                seen.discard("unreachable")  # nobody listens: the node says so
            if seen != ({canary.seen} if canary.seen else set()):
                raise BlindLab(
                    f"the canary that must be {canary.name} was seen {' and '.join(sorted(seen)) or 'nowhere'}: "
                    "nothing that this lab sees can be believed"
                )

    def _word(self, sighting: Sighting) -> str:
        packet = sighting.packet
        if (packet.protocol, packet.icmp_type, packet.icmp_code) == _UNREACHABLE[packet.family]:
            return "unreachable"
        if sighting.where is Where.LINK and packet.daddr != _address(packet.family, _ENDPOINT):
            return "untranslated"
        return sighting.where

    def reply(self, flock: Sequence[Canary]) -> Canary:
        """What the endpoint of the translated one answers."""
        sent = flock[-1].shot.packet
        packet = Packet(
            sent.family, "udp", _address(sent.family, _ENDPOINT), sent.saddr, _PORT, sent.sport, in_interface=sent.in_interface
        )  # fmt: skip
        return Canary("answered", Shot(packet), "answer")

    def check_reply(self, canary: Canary, heard: Heard) -> None:
        """BlindLab unless the client hears from the address that it dialled."""
        sources = {sighting.packet.saddr for sighting in heard.sightings}
        if sources != {_address(self._node.family, _TRANSLATED)}:
            raise BlindLab(
                "the answer to a canary came back wrong, or not at all: nothing that this lab sees can be believed"
            )
