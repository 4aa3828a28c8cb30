"""The language of ipvsadm: ``ipvsadm -S -n``, and ``ipvsadm -L -n``, which prints the same with connections.

Counterpart: ipvsadm 1.31. What ip_vs forwards otherwise than by masquerading, and virtual servers of firewall marks, are
not modelled and refused by name.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from kpsim.addresses import Family, format_ip, join_host_port, parse_ip
from kpsim.errors import InputError, Problem
from kpsim.ipvs.schedulers import SCHEDULERS
from kpsim.ipvs.servers import (
    NO_VIRTUAL_SERVER_FLAGS,
    RealServer,
    VirtualServer,
    VirtualServerFlags,
    VirtualServerKey,
)
from kpsim.maps import Map

Servers = Map[VirtualServerKey, VirtualServer]

_SAVED = re.compile(r"^(?:-A|--add-service) (?:-[tuf]|--\w+-service|--fwmark-service) \S", re.MULTILINE)
_LISTED = re.compile(r"^(?:IP Virtual Server version|Prot LocalAddress:Port Scheduler)", re.MULTILINE)
_OTHER_COLUMNS = re.compile(
    r"^\s*-> RemoteAddress:Port\s+(?!Forward)\S|^Prot LocalAddress:Port\s+(?!Scheduler)\S", re.MULTILINE
)
_GIVE = "give the output of ipvsadm -S -n"
_MOST_WEIGHT, _MOST_TIMEOUT_S = 65535, 31 * 86400
_PROTOCOLS: Mapping[str, str] = {
    "-t": "tcp", "--tcp-service": "tcp", "-u": "udp", "--udp-service": "udp", "--sctp-service": "sctp",
}  # fmt: skip
_OPTIONS = {"tcp": "-t", "udp": "-u", "sctp": "--sctp-service"}
_OTHER_FORWARDING: Mapping[str, str] = {
    "-g": "direct routing", "--gatewaying": "direct routing", "-i": "tunneling", "--ipip": "tunneling",
    "Route": "direct routing", "Tunnel": "tunneling",
}  # fmt: skip
#: what a scheduler calls its flags; of any other they are flag-1, flag-2 and flag-3
_FLAGS: Mapping[str, VirtualServerFlags] = {
    "sh-fallback": VirtualServerFlags.SCHEDULER_1, "sh-port": VirtualServerFlags.SCHEDULER_2,
    "mh-fallback": VirtualServerFlags.SCHEDULER_1, "mh-port": VirtualServerFlags.SCHEDULER_2,
    "flag-1": VirtualServerFlags.SCHEDULER_1, "flag-2": VirtualServerFlags.SCHEDULER_2,
    "flag-3": VirtualServerFlags.SCHEDULER_3,
}  # fmt: skip


def reads(text: str) -> bool:
    """Whether a text looks like the output of ipvsadm."""
    return _LISTED.search(text) is not None or _SAVED.search(text) is not None


def parse(text: str, *, file: str | None = None) -> dict[Family, Servers]:
    """The virtual servers of a text, by family. InputError names every line that is wrong.

    Real servers stand as if the text had been restored line by line: the last one is the newest.
    """
    text = text.removeprefix("\ufeff")
    listed = _LISTED.search(text) is not None
    if listed and _OTHER_COLUMNS.search(text):
        raise InputError(Problem(f"this listing of ipvsadm leaves weights and forwarding out: {_GIVE}", file=file))
    reader = _Reader()
    read = reader.listed if listed else reader.saved
    problems: list[Problem] = []
    for number, line in enumerate(text.split("\n"), start=1):
        try:
            read(line.split())
        except ValueError as problem:
            problems.append(Problem(str(problem), file=file, line=number))
    if problems:
        raise InputError(problems)
    return {family: Map(found) for family, found in sorted(reader.found.items())}


class _Reader:
    """Reads a text line by line. A ValueError is a problem of that line; the next line can be read."""

    def __init__(self) -> None:
        self.found: dict[Family, dict[VirtualServerKey, VirtualServer]] = {}
        self._last: tuple[Family, VirtualServerKey] | None = None

    def saved(self, words: list[str]) -> None:
        """Reads a line of ``ipvsadm -S -n``."""
        rest = iter(words)
        match next(rest, ""):
            case "" | "#":
                return
            case "-A" | "--add-service":
                family, key = _service(rest)
                self._make(family, key, _properties(family, rest))
            case "-a" | "--add-server":
                family, key = _service(rest)
                if key not in self.found.get(family, {}):
                    raise ValueError(f"there is no virtual server {_shown(family, key)}")
                self._serve(family, key, _server(family, rest))
            case word:
                raise ValueError(f"not a line of ipvsadm -S -n: {word}")

    def listed(self, words: list[str]) -> None:
        """Reads a line of ``ipvsadm -L -n``."""
        match words:
            case ["TCP" | "UDP" | "SCTP" as protocol, place, scheduler, *rest]:
                family, key = _key(protocol.lower(), place)
                self._last = family, key
                self._make(family, key, _listed_properties(family, scheduler, iter(rest)))
            case ["FWM", *_]:
                raise ValueError("a virtual server of a firewall mark is not modelled")
            case ["->", place, forward, weight, _, _] if place != "RemoteAddress:Port":
                if self._last is None:
                    raise ValueError("a real server without virtual server")
                family, key = self._last
                self._serve(family, key, _real_server(family, place, forward, weight))
            case [] | ["IP" | "Prot", *_] | ["->", "RemoteAddress:Port", *_]:
                return
            case _:
                raise ValueError(f"not a line of ipvsadm -L -n: {' '.join(words)[:60]}")

    def _make(self, family: Family, key: VirtualServerKey, made: VirtualServer) -> None:
        servers = self.found.setdefault(family, {})
        if key in servers:
            raise ValueError(f"virtual server {_shown(family, key)} appears twice")
        servers[key] = made

    def _serve(self, family: Family, key: VirtualServerKey, server: RealServer) -> None:
        of = self.found[family][key]
        if any((each.address, each.port) == (server.address, server.port) for each in of.servers):
            raise ValueError(f"real server {_place(family, server.address, server.port)} appears twice")
        self.found[family][key] = replace(of, servers=(server, *of.servers))


# --- parts ------------------------------------------------------------------------------------------------------------

Words = Iterator[str]


def _value(words: Words, option: str) -> str:
    found = next(words, None)
    if found is None:
        raise ValueError(f"{option} needs a value")
    return found


def _number(text: str, option: str, most: int) -> int:
    if not (text.isascii() and text.isdigit()) or int(text[:20]) > most:
        raise ValueError(f"{option}: not a number from 0 to {most}: {text!r}")
    return int(text)


def _address_and_port(text: str) -> tuple[Family, int, int]:
    host, colon, port = text.rpartition(":")
    parsed = parse_ip(host.removeprefix("[").removesuffix("]"))
    if not colon or parsed is None or (":" in host) is not host.startswith("["):
        raise ValueError(f"not ADDRESS:PORT: {text!r} ({_GIVE}: -n prints numbers)")
    return *parsed, _number(port, "port", 65535)


def _key(protocol: str, place: str) -> tuple[Family, VirtualServerKey]:
    family, address, port = _address_and_port(place)
    return family, VirtualServerKey(address, port, protocol)


def _service(words: Words) -> tuple[Family, VirtualServerKey]:
    option = next(words, "")
    if option in ("-f", "--fwmark-service"):
        raise ValueError(f"a virtual server of a firewall mark ({option}) is not modelled")
    if option not in _PROTOCOLS:
        raise ValueError(f"not an option that names a virtual server (-t, -u, --sctp-service): {option!r}")
    return _key(_PROTOCOLS[option], _value(words, option))


def _scheduler(text: str) -> str:
    if text not in SCHEDULERS:
        raise ValueError(f"not a scheduler of ip_vs: {text}")
    return text


def _prefix(text: str, family: Family) -> int:
    """The prefix length of a netmask, which of IPv4 is written as an address."""
    if family is Family.IPV6:
        return _number(text, "netmask", 128)
    parsed = parse_ip(text)
    prefix = parsed[1].bit_count() if parsed is not None and parsed[0] is family else -1
    if parsed is None or prefix < 0 or parsed[1] != family.mask(prefix):
        raise ValueError(f"not a netmask of IPv4: {text!r}")
    return prefix


def _scheduler_flags(text: str) -> VirtualServerFlags:
    flags = NO_VIRTUAL_SERVER_FLAGS
    for word in text.strip("()").split(","):
        if word not in _FLAGS:
            raise ValueError(f"not a flag of a scheduler: {word}")
        flags |= _FLAGS[word]
    return flags


def _properties(family: Family, words: Words) -> VirtualServer:
    """What ``-A`` says beside the address: ``-s rr -p 10800 -M 255.255.255.0 -o -b sh-port``."""
    made = VirtualServer("wlc", family.bits)
    for option in words:
        match option:
            case "-s" | "--scheduler":
                made = replace(made, scheduler=_scheduler(_value(words, option)))
            case "-p" | "--persistent":
                made = _persistent(made, _value(words, option))
            case "-M" | "--netmask":
                made = replace(made, netmask=_prefix(_value(words, option), family))
            case "-o" | "--ops":
                made = replace(made, flags=made.flags | VirtualServerFlags.ONE_PACKET)
            case "-b" | "--sched-flags":
                made = replace(made, flags=made.flags | _scheduler_flags(_value(words, option)))
            case "--pe":
                raise ValueError(f"a persistence engine (--pe {_value(words, option)}) is not modelled")
            case _:
                raise ValueError(f"not an option of a virtual server: {option}")
    return made


def _persistent(made: VirtualServer, seconds: str) -> VirtualServer:
    timeout_s = _number(seconds, "persistent", _MOST_TIMEOUT_S)
    return replace(made, flags=made.flags | VirtualServerFlags.PERSISTENT, timeout_s=timeout_s)


def _listed_properties(family: Family, scheduler: str, words: Words) -> VirtualServer:
    """What a listing says beside the address: ``rr (sh-port) persistent 10800 mask 255.255.255.0 ops``."""
    made = VirtualServer(_scheduler(scheduler), family.bits)
    for word in words:
        match word:
            case "persistent":
                made = _persistent(made, _value(words, word))
            case "mask":
                made = replace(made, netmask=_prefix(_value(words, word), family))
            case "ops":
                made = replace(made, flags=made.flags | VirtualServerFlags.ONE_PACKET)
            case "pe":
                raise ValueError(f"a persistence engine (pe {_value(words, word)}) is not modelled")
            case _ if word.startswith("("):
                made = replace(made, flags=made.flags | _scheduler_flags(word))
            case _:
                raise ValueError(f"not a word of a virtual server in a listing: {word}")
    return made


def _server(family: Family, words: Words) -> RealServer:
    """What ``-a`` says beside the virtual server: ``-r 10.0.0.1:80 -m -w 1``."""
    place, forward, weight = "", "-g", "1"
    for option in words:
        match option:
            case "-r" | "--real-server":
                place = _value(words, option)
            case "-m" | "--masquerading" | "-g" | "--gatewaying" | "-i" | "--ipip":
                forward = option
            case "-w" | "--weight":
                weight = _value(words, option)
            case "-x" | "--u-threshold" | "-y" | "--l-threshold":
                if _value(words, option) != "0":
                    raise ValueError(f"a threshold of connections ({option}) is not modelled")
            case _:
                raise ValueError(f"not an option of a real server: {option}")
    if not place:
        raise ValueError("-r is missing")
    return _real_server(family, place, forward, weight)


def _real_server(family: Family, place: str, forward: str, weight: str) -> RealServer:
    if forward in _OTHER_FORWARDING:
        raise ValueError(f"forwarding by {_OTHER_FORWARDING[forward]} ({forward}) is not modelled, only masquerading")
    if forward not in ("-m", "--masquerading", "Masq"):
        raise ValueError(f"not a way of forwarding: {forward}")
    of, address, port = _address_and_port(place)
    if of is not family:
        raise ValueError(f"real server {place} is not of {family.label}")
    return RealServer(address, port, _number(weight, "weight", _MOST_WEIGHT))


# --- text -------------------------------------------------------------------------------------------------------------


def render(family: Family, servers: Mapping[VirtualServerKey, VirtualServer]) -> str:
    """Virtual servers of a family as ``ipvsadm -S -n`` prints them, sorted; the oldest real server of each comes first."""
    rank: Callable[[VirtualServerKey], tuple[str, int, int]] = lambda key: (key.protocol, key.address, key.port)  # noqa: E731
    return "".join(f"{line}\n" for key in sorted(servers, key=rank) for line in _lines(family, key, servers[key]))


def _lines(family: Family, key: VirtualServerKey, made: VirtualServer) -> Iterator[str]:
    service = f"{_OPTIONS[key.protocol]} {_place(family, key.address, key.port)}"
    yield f"-A {service} -s {made.scheduler}{''.join(_written(family, made))}"
    for server in reversed(made.servers):
        yield f"-a {service} -r {_place(family, server.address, server.port)} -m -w {server.weight}"


def _written(family: Family, made: VirtualServer) -> Iterator[str]:
    if VirtualServerFlags.PERSISTENT in made.flags:
        yield f" -p {made.timeout_s}"
        if made.netmask != family.bits:
            mask = format_ip(family, family.mask(made.netmask)) if family is Family.IPV4 else str(made.netmask)
            yield f" -M {mask}"
    if VirtualServerFlags.ONE_PACKET in made.flags:
        yield " -o"
    own = f"{made.scheduler}-" if made.scheduler in ("sh", "mh") else "flag-"
    names = [name for name, flag in _FLAGS.items() if flag in made.flags and name.startswith((own, "flag-3"))]
    if names:
        yield f" -b {','.join(names)}"


def _place(family: Family, address: int, port: int) -> str:
    return join_host_port(format_ip(family, address), port)


def _shown(family: Family, key: VirtualServerKey) -> str:
    return f"{_OPTIONS[key.protocol]} {_place(family, key.address, key.port)}"
