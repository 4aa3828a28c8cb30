"""A node in Linux: one namespace with a machine's interfaces, routes, settings and rules, and one with the world
around it.

Counterpart: a machine that kube-proxy runs on, its pods behind a bridge, a peer and the outside behind its uplink.
The world has no IP stack of its own: the caller sends every packet of pods, peers and clients, answers included.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from typing import Any

from kpsim.addresses import Family, format_ip
from kpsim.lab.accounting import LinuxAccounting
from kpsim.lab.calls import LabError
from kpsim.lab.conntrack import LinuxConntrack
from kpsim.lab.namespace import Namespace
from kpsim.lab.tools import Tool
from kpsim.lab.tools.ipset import IpsetTool
from kpsim.lab.tools.iptables import IptablesTool
from kpsim.lab.tools.nft import NftTool
from kpsim.lab.tools.together import Together
from kpsim.lab.tools.variants import Variant
from kpsim.lab.wires import Framed, Heard, Port, Shot, Sighting, Where, Wires
from kpsim.nodes import Machine
from kpsim.packetpath.routing import MAIN_TABLE, Interface, InterfaceKind, PolicyRule, Route, RouteKind
from kpsim.ruleset import Ruleset, Set
from kpsim.sysctls import SETTINGS, Sysctls

_PATIENCE_S = 10
_BRIDGE_MAC = "02:00:00:01:00:00"  # without one of its own the bridge would take the address of one of its ports
_ELSEWHERE = b"\2\0\0\0\0\1"
_ETHERNET = {Family.IPV4: b"\x08\x00", Family.IPV6: b"\x86\xdd"}
#: no rate limits (K-3.4), no redirects, no answers to pings, no addresses that Linux gives itself
_QUIET = {
    "net.ipv4.icmp_ratemask": 0, "net.ipv6.icmp.ratelimit": 0,
    "net.ipv4.icmp_msgs_per_sec": 1_000_000, "net.ipv4.icmp_msgs_burst": 1_000_000,
    "net.ipv4.conf.all.send_redirects": 0, "net.ipv4.conf.default.send_redirects": 0,
    "net.ipv4.icmp_echo_ignore_all": 1, "net.ipv6.icmp.echo_ignore_all": 1,
    "net.ipv6.conf.all.accept_dad": 0, "net.ipv6.conf.default.accept_dad": 0,
    "net.ipv6.auto_flowlabels": 0, "net.ipv6.flowlabel_reflect": 0,
    "net.ipv4.ip_forward": 1, "net.ipv6.conf.all.forwarding": 1,
}  # fmt: skip


class LabNode:
    """One family of a node, and the world around it. ``close`` it. A process that ends leaves nothing behind either."""

    def __init__(self, machine: Machine, family: Family, variant: Variant = Variant.NFT) -> None:
        self.machine, self.family, self.variant = machine, family, variant
        self._opened = ExitStack()
        self.namespace = self._opened.enter_context(closing(Namespace()))
        self._world = self._opened.enter_context(closing(Namespace()))
        self._macs: dict[str, bytes] = {}  # of the node's interfaces, by name
        self._wires_by_interface: dict[str, str] = {}
        self._pods: dict[int, tuple[str, bytes]] = {}  # address → wire and MAC
        self._guests: dict[str, str] = {}  # bridge → wire
        self._local: dict[int, str] = {}  # addresses of devices that only make them local
        self._devices: set[str] = set()  # these devices
        self._ports = 0
        try:
            accounting = self._opened.enter_context(closing(LinuxAccounting(self.namespace)))
            self.iptables = IptablesTool(self.namespace, family, variant, accounting)
            self.ipsets = IpsetTool(self.namespace)
            self.tool: Tool = Together(self.iptables, NftTool(self.namespace))
            self._wires = self._opened.enter_context(closing(Wires(family, self.namespace, self._world)))
            self._build()
            self.conntrack = self._opened.enter_context(closing(LinuxConntrack(self.namespace)))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._opened.close()

    # --- interfaces, routes, settings ----------------------------------------------------------------------------------

    def _build(self) -> None:
        routing = self.machine.routing
        self._world.set_sysctls({"net.ipv6.conf.default.disable_ipv6": 1})
        self.namespace.set_sysctls(_QUIET | {"net.ipv4.conf.default.rp_filter": 0})
        here, there = ["link set lo up"], []
        for interface in routing.interfaces.values():
            here += self._lines(interface)
            if (wire := self._wires_by_interface.get(interface.name)) is not None:
                there.append(f"link set {wire} up arp off")
        self.namespace.ip(here)
        self._world.ip(there)
        links = self.namespace.listed(["ip", "-json", "link", "show"])
        self._macs = {str(link.get("ifname")): _mac(link.get("address")) for link in links}
        for interface in routing.interfaces.values():
            if interface.kind is InterfaceKind.BRIDGE:
                self._add_ports(interface.name, [None])  # for senders behind the bridge that are not pods
        self._settle()
        self.namespace.set_sysctls(sysctl_values(self.machine.sysctls, self.namespace.has_sysctl))
        self.namespace.ip([f"route add {_written(r)}" for r in routing.routes if r.network.family is self.family])
        rules = [rule for rule in routing.rules if rule.family is self.family]
        if rules:  # in place of those that Linux begins with
            family = f"-{self.family.value}"
            self.namespace.run(["ip", family, "rule", "del", "priority", "32766"])
            self.namespace.run(["ip", family, "rule", "del", "priority", "0"])
            self.namespace.ip([f"rule add {_rule_written(rule)}" for rule in rules], family)

    def _lines(self, interface: Interface) -> list[str]:
        """The arguments of ``ip`` that make an interface. If it has a wire to the world, frames that come out there
        are read from now on.
        """
        name, lines = interface.name, []
        match interface.kind:
            case InterfaceKind.LOOPBACK:
                pass
            case InterfaceKind.LINK | InterfaceKind.VETH | InterfaceKind.DUMMY:
                # a dummy is a veth here too: the packets that it would lose can be seen
                where = Where.POD if interface.kind is InterfaceKind.VETH else Where.LINK
                wire = self._wires_by_interface[name] = f"w-{name}"[:15]
                self._wires.attach(Port(wire, where, name))
                lines.append(f"link add {name} type veth peer name {wire} netns {self._world.path}")
                lines.append(f"link set {name} up arp off")
            case InterfaceKind.BRIDGE:
                lines.append(f"link add {name} address {_BRIDGE_MAC} type bridge mcast_snooping 0")
                lines.append(f"link set {name} up")
        addresses = interface.of(self.family)
        nodad = " nodad" if self.family is Family.IPV6 else ""
        for address in addresses if self.family is Family.IPV4 else reversed(addresses):  # IPv6 lists the newest first
            if interface.kind is not InterfaceKind.LOOPBACK or not (address.value == 1 or address.value >> 24 == 127):
                lines.append(f"addr add {address} dev {name}{nodad}")
        if interface.mtu:
            lines.append(f"link set {name} mtu {interface.mtu}")
        if not interface.up:
            lines.append(f"link set {name} down")
        return lines

    # --- pods behind a bridge ------------------------------------------------------------------------------------------

    def add_pods(self, addresses: Iterable[int]) -> None:
        """Gives each address that is routed to a bridge its own port of the bridge, unless it has one."""
        wanted: dict[str, list[int]] = {}
        for address in addresses:
            decision = self.machine.routing.in_main(self.family, address)
            if decision is not None and decision.kind is RouteKind.UNICAST and address not in self._pods:
                wanted.setdefault(decision.interface, []).append(address)
        for name, new in wanted.items():
            if self.machine.routing.interfaces[name].kind is InterfaceKind.BRIDGE:
                self._add_ports(name, list(dict.fromkeys(new)))

    def put_behind(self, interface: str, *addresses: int) -> None:
        """Routes addresses to an interface, whatever other routes say."""
        bits = self.family.bits
        self.namespace.ip([f"route add {format_ip(self.family, a)}/{bits} dev {interface}" for a in addresses])
        if self.machine.routing.interfaces[interface].kind is InterfaceKind.BRIDGE:
            self._add_ports(interface, addresses)

    def add_local(self, address: int) -> None:
        """Makes the node accept packets to an address without assigning it. So Linux never uses it as a source address."""
        self.namespace.ip([f"route add local {format_ip(self.family, address)}/{self.family.bits} dev lo table local"])

    def be_local(self, addresses: Mapping[int, str]) -> None:
        """Gives the node exactly these addresses on devices that only make them local, as kube-ipvs0 does.

        ``addresses`` says on which. Such a device is a bridge that is down, because not every kernel has dummies.
        """
        suffix = " nodad" if self.family is Family.IPV6 else ""
        made = sorted(set(addresses.values()) - set(self._local.values()) - self._devices)
        lines = [f"link add {device} type bridge" for device in made]
        for verb, old, new in (("del", self._local, addresses), ("add", addresses, self._local)):
            extra = suffix if verb == "add" else ""
            changed = sorted(address for address in old if address not in new)
            lines += [f"addr {verb} {self._host(each)} dev {old[each]}{extra}" for each in changed]
        self.namespace.ip(lines)
        self._devices |= set(made)
        self._local = dict(addresses)

    def _host(self, address: int) -> str:
        return f"{format_ip(self.family, address)}/{self.family.bits}"

    def _add_ports(self, bridge: str, addresses: Sequence[int | None]) -> None:
        here, there, switch = [], [], []
        for address in addresses:
            number = self._ports = self._ports + 1
            mac = b"\2\0" + number.to_bytes(4)
            port, wire = f"p{number}", f"q{number}"
            here.append(f"link add {port} type veth peer name {wire} netns {self._world.path}")
            here.append(f"link set {port} up addrgenmode none master {bridge}")
            hairpin = "on" if self.machine.routing.interfaces[bridge].hairpin else "off"
            here.append(f"link set {port} type bridge_slave hairpin {hairpin} learning off flood off")
            there.append(f"link set {wire} up arp off")
            self._wires.attach(Port(wire, Where.POD, bridge, address))
            if address is None:
                self._guests[bridge] = wire
                continue
            self._pods[address] = wire, mac
            shown = mac.hex(":")
            here.append(f"neigh add {format_ip(self.family, address)} lladdr {shown} dev {bridge} nud permanent")
            switch.append(f"fdb add {shown} dev {port} master static")
        self.namespace.ip(here)
        self._world.ip(there)
        if switch:
            self.namespace.run(["bridge", "-batch", "-"], stdin="".join(f"{line}\n" for line in switch))
        self._settle()

    def _settle(self) -> None:
        """Waits until all links are up, which Linux notices with a delay. LabError if they do not come up."""
        for _ in range(_PATIENCE_S * 100):
            up = self.namespace.listed(["ip", "-json", "-details", "link", "show", "up"])
            if up and all(link.get("operstate") in ("UP", "UNKNOWN") and _switches(link) for link in up):
                return
            time.sleep(0.01)
        raise LabError("the links do not come up")

    # --- rules and memory --------------------------------------------------------------------------------------------------

    def load(self, ruleset: Ruleset, ipsets: Mapping[str, Set] | None = None) -> None:
        """Makes these the rules of the family, and these the ipsets. Connections and affinity lists stay."""
        sets = ipsets or {}
        if self.ipsets.remakes(sets):
            self.tool.load(Ruleset(self.family))
        self.ipsets.load(sets)
        self.tool.load(ruleset)
        self.ipsets.drop(sets)

    def forget(self) -> None:
        """Empties the connection table and the affinity lists."""
        self.conntrack.flush()
        self.tool.forget()

    # --- packets -----------------------------------------------------------------------------------------------------------

    def transmit(self, shots: Sequence[Shot], *, wait_for_last: bool = False) -> tuple[list[Heard], list[Sighting]]:
        """Sends shots. Returns what was seen of each, in order, and the packets that belong to none of them.

        LabError if a packet could not be sent, or came out but could not be read.
        """
        reception = self._wires.transmit([self._framed(shot) for shot in shots], wait_for_last=wait_for_last)
        return reception.results(), reception.strays

    def _framed(self, shot: Shot) -> Framed:
        packet = shot.packet
        name = packet.in_interface
        if not name:
            return Framed(shot)
        if name not in self._macs:
            raise LabError(f"the node has no interface {name}")
        if name in self._wires_by_interface:
            return Framed(shot, self._wires_by_interface[name], self._header(self._macs[name], _ELSEWHERE))
        wire, source = self._pods.get(packet.saddr, (self._guests.get(name, ""), _ELSEWHERE))
        if not wire:
            raise LabError(f"nothing can be sent into {name}")
        # a frame to a neighbour on the bridge goes there directly, every other frame to the node
        on_link = any(packet.daddr in a.network for a in self.machine.routing.interfaces[name].of(self.family))
        target = self._pods.get(packet.daddr) if on_link else None
        return Framed(shot, wire, self._header(target[1] if target else self._macs[name], source))

    def _header(self, destination: bytes, source: bytes) -> bytes:
        return destination + source + _ETHERNET[self.family]


def _switches(link: dict[str, Any]) -> bool:
    """Whether a link takes packets already. Only a port of a bridge may not do so yet."""
    info = link.get("linkinfo") or {}
    if not isinstance(info, dict) or info.get("info_slave_kind") != "bridge":
        return True
    return bool((info.get("info_slave_data") or {}).get("state") == "forwarding")


def _mac(text: object) -> bytes:
    """A hardware address as bytes. LabError if it is none."""
    try:
        return bytes.fromhex(str(text).replace(":", ""))
    except ValueError:
        raise LabError(f"ip lists a link with the address {text!r}: nothing can be measured with it") from None


def _rule_written(rule: PolicyRule) -> str:
    words = ["not"] if rule.invert else []
    words += ["from", str(rule.source or "all")]
    words += ["to", str(rule.destination)] if rule.destination is not None else []
    words += ["iif", rule.interface] if rule.interface else []
    words += ["fwmark", f"{rule.mark:#x}/{rule.mask:#x}"] if rule.mask else []
    words += ["priority", str(rule.priority)]
    words += ["table", str(rule.table)] if rule.kind is RouteKind.UNICAST else ["type", str(rule.kind)]
    words += ["suppress_prefixlength", str(rule.shortest)] if rule.shortest >= 0 else []
    return " ".join(words)


def _written(route: Route) -> str:
    if route.kind is RouteKind.LOCAL:
        return f"local {route.network} dev lo table local"
    if route.kind is not RouteKind.UNICAST:
        metric = f" metric {route.metric}" if route.metric else ""
        return f"{route.kind} {route.network}{metric}{_table(route)}"
    family = route.network.family
    text = f"{route.network}"
    if route.gateway is not None:
        text += f" via {format_ip(family, route.gateway)} onlink"
    text += f" dev {route.interface}"
    if route.metric:
        text += f" metric {route.metric}"
    if route.mtu:
        text += f" mtu {route.mtu}"
    return text + (f" src {format_ip(family, route.source)}" if route.source is not None else "") + _table(route)


def _table(route: Route) -> str:
    return "" if route.table == MAIN_TABLE else f" table {route.table}"


def sysctl_values(sysctls: Sysctls, exists: Callable[[str], bool]) -> dict[str, int]:
    """The values of all settings that a namespace has for itself, by name.

    A kernel that does not track a protocol lacks the protocol's timers: those that ``exists`` denies are left out if
    they have their default value.
    """
    values = {each: each.of(sysctls) for each in SETTINGS.values() if not each.of_machine and not each.module}
    return {each.name: value for each, value in values.items() if value != each.default or exists(each.name)}
