"""A machine as its own tools describe it: ``ip addr``, ``ip route show table all``, ``ip rule`` and ``ss -lntu``.

The output of these commands may stand in one file or in several, in any order. What is not understood is an error that
names its line; what is understood and not modelled is refused by name.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from kpsim.addresses import Family, Network, format_ip, parse_cidr, parse_ip
from kpsim.errors import InputError, Problem
from kpsim.inputs import read_text, shown_name
from kpsim.nodes import Machine, observed_machine
from kpsim.packetpath.routing import (
    DEFAULT_TABLE,
    LOCAL_TABLE,
    MAIN_TABLE,
    Interface,
    InterfaceKind,
    OwnAddress,
    PolicyRule,
    Route,
    RouteKind,
)
from kpsim.packetpath.sockets import Socket

_LINK = re.compile(r"(\d+): ([^\s:@]+)(?:@\S+)?: <([^>]*)>(?:.*\bmtu (\d+))?")
_RULE = re.compile(r"(\d+):\s+(.*\bfrom\b.*)")
_SOCKET = re.compile(r"(?:(tcp|udp|sctp)\s+)?(LISTEN|UNCONN)\s+\d+\s+\d+\s+(\S+):(\d+|\*)\s+\S+(?:\s+(.*))?$")
_PROMPT = re.compile(r"\s*[#$]\s*(.*)")
_PROCESS = re.compile(r'\(\("([^"]+)"')
_TABLES = {"local": LOCAL_TABLE, "main": MAIN_TABLE, "default": DEFAULT_TABLE}
_FIRST_NAMED = 1 << 32  #: numbers of tables that the text only names; Linux has none so large
_KINDS = {kind.value: kind for kind in RouteKind}
_MADE_BY_LINUX = ("broadcast", "multicast", "anycast")
_FOLLOWED_BY_A_WORD = (
    "proto",
    "scope",
    "pref",
    "expires",
    "hoplimit",
    "advmss",
    "initcwnd",
    "initrwnd",
    "error",
    "realm",
)
_ALONE = ("onlink", "linkdown", "dead", "offload", "trap", "rt_offload", "rt_trap", "sec")
_UNMODELLED_RULE = (
    "oif",
    "uidrange",
    "ipproto",
    "sport",
    "dport",
    "tos",
    "dsfield",
    "dscp",
    "goto",
    "nop",
    "l3mdev",
    "realms",
    "tun_id",
)
_DUMMIES = ("dummy", "kube-ipvs0", "nodelocaldns")
_DATAGRAMS = "UNCONN"


@dataclass(slots=True)
class Observed:
    """What the files say. ``sockets`` None: none of them lists sockets."""

    interfaces: list[Interface] = field(default_factory=list)
    routes: list[Route] = field(default_factory=list)
    rules: list[PolicyRule] = field(default_factory=list)
    sockets: list[Socket] | None = None


def read_observed(paths: Iterable[Path]) -> Observed:
    """Reads the files. InputError names each line that is not understood, or what is not modelled in it."""
    reader = _Reader()
    for path in paths:
        reader.read(read_text(path), shown_name(path))
    if reader.problems:
        raise InputError(reader.problems)
    return reader.observed()


def applied(machine: Machine, observed: Observed) -> Machine:
    """The machine with what its tools say about it. What they were not asked about stays as it is.

    InputError if interfaces are told without routes: Linux has routes that do not follow from addresses.
    """
    sockets = machine.sockets if observed.sockets is None else tuple(observed.sockets)
    if not observed.interfaces and not observed.routes and not observed.rules:
        return replace(machine, sockets=sockets)
    if not observed.routes:
        raise InputError("the output of `ip route show table all` is missing (of both families, -4 and -6)")
    old = machine.routing
    interfaces = observed.interfaces or list(old.interfaces.values())
    names = {interface.name for interface in interfaces}
    own = old.interfaces[machine.uplink].addresses if machine.uplink in old.interfaces else ()
    return observed_machine(
        interfaces, observed.routes, observed.rules, node_ips=[format_ip(a.family, a.value) for a in own],
        pod_networks=machine.pod_networks, pod_interface=machine.pod_interface if machine.pod_interface in names else "",
        sockets=sockets, sysctls=machine.sysctls,
    )  # fmt: skip


class _Reader:
    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._found = Observed()
        self._names: dict[str, int] = dict(_TABLES)
        self._family = Family.IPV4  # of what names no address
        self._rule_families: set[Family] = set()
        self._local: list[Route] = []

    def observed(self) -> Observed:
        """All that was read. Routes to the interfaces' own addresses follow from these and are left out."""
        own = {(a.family, a.value) for each in self._found.interfaces for a in each.addresses}
        loopback = Network(Family.IPV4, 127 << 24, 8)
        for route in self._local:
            network = route.network
            is_own = network.prefix == network.family.bits and (network.family, network.base) in own
            if not is_own and not (network.family is Family.IPV4 and network.base in loopback):
                self._found.routes.append(route)
        return self._found

    def read(self, text: str, file: str) -> None:
        self._family = Family.IPV4
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip():
                continue
            try:
                self._line(line)
            except InputError as error:
                self.problems += [Problem(problem.message, file=file, line=number) for problem in error.problems]

    def _line(self, line: str) -> None:
        if prompt := _PROMPT.fullmatch(line):
            words = prompt[1].split()
            self._family = Family.IPV6 if "-6" in words else Family.IPV4
        elif link := _LINK.match(line):
            self._interface(*link.groups())
        elif rule := _RULE.match(line):
            self._rule(int(rule[1]), rule[2].split())
        elif line.startswith(("Netid", "State")):
            self._found.sockets = self._found.sockets or []
        elif socket := _SOCKET.match(line.strip()):
            self._socket(*socket.groups())
        elif line[0].isspace():
            self._detail(line.split())
        else:
            self._route(line.split())

    # --- ip addr ------------------------------------------------------------------------------------------------------

    def _interface(self, _: str, name: str, flags: str, mtu: str | None) -> None:
        words = flags.split(",")
        kind = InterfaceKind.LOOPBACK if "LOOPBACK" in words else InterfaceKind.LINK
        if name.startswith(_DUMMIES):
            kind = InterfaceKind.DUMMY
        length = 0 if kind is InterfaceKind.LOOPBACK or mtu is None else int(mtu)
        self._found.interfaces.append(Interface(name, (), kind, up="UP" in words, mtu=length))

    def _detail(self, words: Sequence[str]) -> None:
        """A line below an interface, or below a route."""
        if words[0] == "nexthop":
            raise InputError("a route with several next hops is not modelled")
        if words[0] not in ("inet", "inet6") or not self._found.interfaces:
            return  # link/ether, valid_lft and the like
        if "tentative" in words or "dadfailed" in words:
            return
        last = self._found.interfaces[-1]
        address = OwnAddress.parse(words[1])
        added = Interface(last.name, (*last.addresses, address), last.kind, last.up, mtu=last.mtu)
        self._found.interfaces[-1] = added

    # --- ip route -----------------------------------------------------------------------------------------------------

    def _route(self, words: list[str]) -> None:
        kind = RouteKind.UNICAST
        if words[0] in _MADE_BY_LINUX:
            return
        if words[0] in _KINDS:
            kind = _KINDS[words.pop(0)]
        if not words:
            raise InputError("neither an interface, a route, a rule nor a socket")
        if words[0] != "default" and not parse_cidr(words[0]) and not parse_ip(words[0]):
            raise InputError(f"neither an interface, a route, a rule nor a socket begins with {words[0]!r}")
        values = _options(words[1:])
        gateway = _address(values["via"]) if "via" in values else None
        network = self._network(words[0], gateway)
        source = _address(values["src"]) if "src" in values else None
        if any(end is not None and end[0] is not network.family for end in (gateway, source)):
            raise InputError(f"a route of {network.family.label} with an address of the other family is not modelled")
        route = Route(
            network,
            values.get("dev", "") if kind is RouteKind.UNICAST else "",
            None if gateway is None else gateway[1],
            kind,
            int(values.get("metric", "0")),
            None if source is None else source[1],
            self._table(values.get("table", "main")),
            int(values.get("mtu", "0")),
        )
        if kind is RouteKind.LOCAL:
            self._local.append(route)
        elif route.table != LOCAL_TABLE:
            self._found.routes.append(route)

    def _network(self, text: str, gateway: tuple[Family, int] | None) -> Network:
        if text == "default":
            family = gateway[0] if gateway is not None else self._family
            return Network(family, 0, 0)
        return _net(text)

    def _table(self, name: str) -> int:
        if name.isdecimal():
            return int(name)
        return self._names.setdefault(name, _FIRST_NAMED + len(self._names))

    # --- ip rule ------------------------------------------------------------------------------------------------------

    def _rule(self, priority: int, words: list[str]) -> None:
        invert = words[0] == "not"
        values = dict(zip(words[invert::2], words[invert + 1 :: 2], strict=False))
        last = next((word for word in words if word in ("unreachable", "prohibit", "blackhole")), "")
        for word in _UNMODELLED_RULE:
            if word in words:
                raise InputError(f"a policy rule with {word} is not modelled")
        known = {key: _net(values[key]) for key in ("from", "to") if values.get(key, "all") != "all"}
        family = next((network.family for network in known.values()), self._family)
        if priority == 0 and family in self._rule_families and not known:
            family = self._family = Family.IPV6  # a second list begins, without a word about its family
        self._rule_families.add(family)
        mark, _, mask = values.get("fwmark", "0/0").partition("/")
        _numbers(values, ("suppress_prefixlength",))
        table = values.get("lookup") or values.get("table") or "main"
        self._found.rules.append(
            PolicyRule(
                family, priority, self._table(table), RouteKind(last) if last else RouteKind.UNICAST, known.get("from"), known.get("to"),
                values.get("iif", ""), _mark(mark), _mark(mask or "0xffffffff"), invert,
                int(values.get("suppress_prefixlength", "-1")),
            )
        )  # fmt: skip

    # --- ss -----------------------------------------------------------------------------------------------------------

    def _socket(self, protocol: str | None, state: str, host: str, port: str, process: str | None) -> None:
        if self._found.sockets is None:
            self._found.sockets = []
        if port == "*":
            return
        host, _, interface = host.strip("[]").partition("%")
        name = protocol or ("udp" if state == _DATAGRAMS else "tcp")
        program = found[1] if process and (found := _PROCESS.search(process)) else ""
        address = None if host == "*" else _address(host.strip("[]"))
        self._found.sockets.append(Socket(name, int(port), address, interface.strip("[]"), program))


def _options(words: list[str]) -> dict[str, str]:
    """The options of a route by name. InputError for what is not modelled."""
    values: dict[str, str] = {}
    rest: Iterator[str] = iter(words)
    for word in rest:
        if word == "nexthop":
            raise InputError("a route with several next hops is not modelled")
        if word == "nhid" or word in _FOLLOWED_BY_A_WORD:
            next(rest, "")
        elif word in ("via", "dev", "metric", "src", "table", "mtu"):
            value = next(rest, "")
            if value in ("inet", "inet6", "lock"):
                value = next(rest, "")
            values[word] = value
        elif word not in _ALONE and not word.startswith(("expires", "offload")):
            raise InputError(f"a route with {word!r} is not modelled")
    _numbers(values, ("metric", "mtu"))
    return values


def _numbers(values: dict[str, str], names: Iterable[str]) -> None:
    for name in names:
        if name in values and not values[name].isdecimal():
            raise InputError(f"{name} {values[name]!r} is no number")


def _mark(text: str) -> int:
    if not re.fullmatch(r"0x[0-9a-fA-F]{1,8}|\d{1,10}", text) or int(text, 0) >> 32:
        raise InputError(f"fwmark {text!r} is no number")
    return int(text, 0)


def _net(text: str) -> Network:
    if parsed := parse_cidr(text):
        return parsed[0]
    family, value = _address(text)
    return Network(family, value, family.bits)


def _address(text: str) -> tuple[Family, int]:
    parsed = parse_ip(text)
    if parsed is None:
        raise InputError(f"{text!r} is no address")
    return parsed
