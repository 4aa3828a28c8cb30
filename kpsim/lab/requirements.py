"""What the lab needs of a machine: rights, tools, and a kernel that can do in a network namespace what kube-proxy's rules ask for.

Counterpart: none. The kernel is asked in a new namespace only, which is gone afterwards: of the machine's own rules and
interfaces this module never knows.
"""

import os
import platform
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kpsim.addresses import Family
from kpsim.errors import InputError, Problem
from kpsim.lab.backends import Variant
from kpsim.lab.conntrack import LinuxConntrack
from kpsim.lab.namespace import LabError, Namespace

_STATUS = Path("/proc/self/status")
_OS_RELEASE = Path("/etc/os-release")

#: by their bits in the mask of effective capabilities: interfaces and rules, raw sockets, namespaces
_CAPABILITIES = {12: "CAP_NET_ADMIN", 13: "CAP_NET_RAW", 21: "CAP_SYS_ADMIN"}

#: by what a distribution is or is like: how packages are installed, and those of iproute2 and of each variant
_PACKAGES = {
    "debian": ("apt-get install -y", "iproute2", {Variant.NFT: "iptables", Variant.LEGACY: "iptables"}),
    "fedora": ("dnf install -y", "iproute", {Variant.NFT: "iptables-nft", Variant.LEGACY: "iptables-legacy"}),
    "alpine": ("apk add", "iproute2", {Variant.NFT: "iptables", Variant.LEGACY: "iptables-legacy"}),
}
_IPROUTE_TOOLS = ("ip", "bridge")

_LINKS = {"veth": "link add kpsim0 type veth peer name kpsim1", "bridge": "link add kpsim2 type bridge"}

#: one rule for every table and extension that kube-proxy's rules use (I-4, I-7 … I-12)
_RULES = {
    "nat": {
        "-m comment": "-m comment --comment probe -j RETURN",
        "-m mark": "-m mark --mark 0x4000/0x4000 -j RETURN",
        "-m statistic": "-m statistic --mode random --probability 0.5 -j RETURN",
        "-m recent": "-m recent --name PROBE --rcheck --seconds 10 --reap -j RETURN",
        "-m addrtype": "-m addrtype --src-type LOCAL -j RETURN",
        "-p tcp": "-p tcp -m tcp --dport 80 -j RETURN",
        "-p udp": "-p udp -m udp --dport 80 -j RETURN",
        "-p sctp": "-p sctp -m sctp --dport 80 -j RETURN",
        "-j MARK": "-j MARK --xor-mark 0x4000",
        "-j MASQUERADE --random-fully": "-j MASQUERADE --random-fully",
        "-j DNAT": "-p tcp -j DNAT --to-destination {address}",
    },
    "filter": {
        "-m conntrack": "-m conntrack --ctstate INVALID -j DROP",
        "-j REJECT": "-j REJECT",
    },
    "mangle": {},
}  # fmt: skip
#: where a rule may stand: REJECT not before routing, MASQUERADE after it only, DNAT before
_CHAINS = {"-j REJECT": "INPUT", "-j MASQUERADE --random-fully": "POSTROUTING", "-j DNAT": "PREROUTING"}
_ADDRESSES = {Family.IPV4: "10.180.0.3:8080", Family.IPV6: "[fd00:10:180::3]:8080"}


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why there can be no lab here, in words, and the command that would remove the reason, if one is known."""

    reason: str
    remedy: str | None = None

    def __str__(self) -> str:
        return f"{self.reason} (try: {self.remedy})" if self.remedy else self.reason


def obstacles(variant: Variant, families: Iterable[Family] = tuple(Family)) -> list[Obstacle]:
    """All that is in the way, none if a lab can be built. The kernel is asked only when rights and tools are there."""
    if platform.system() != "Linux":
        return [Obstacle(f"needs Linux: this is {platform.system()}")]
    families = list(families)
    return [*_missing_rights(), *_missing_tools(variant, families)] or list(_missing_in_kernel(variant, families))


def require(variant: Variant, families: Iterable[Family] = tuple(Family)) -> None:
    """InputError with all obstacles, if there are any."""
    if found := obstacles(variant, families):
        raise InputError([Problem(f"packets cannot be sent through Linux here: {obstacle}") for obstacle in found])


# --- rights and tools ------------------------------------------------------------------------------------------------------


def _missing_rights() -> Iterator[Obstacle]:
    if os.geteuid() != 0:
        yield Obstacle("needs root, for network namespaces: run it with sudo")
        return
    [effective] = [
        int(line.split()[1], 16) for line in _STATUS.read_text().splitlines() if line.startswith("CapEff:")
    ]  # fmt: skip
    if missing := [name for bit, name in _CAPABILITIES.items() if not effective >> bit & 1]:
        yield Obstacle(f"root lacks {', '.join(missing)} here, as in a container that was not given them")


def _missing_tools(variant: Variant, families: Sequence[Family]) -> Iterator[Obstacle]:
    iproute = [tool for tool in _IPROUTE_TOOLS if shutil.which(tool) is None]
    tools = [tool for family in families for tool in (variant.tool(family, "restore"), variant.tool(family, "save"))]
    iptables = [tool for tool in tools if shutil.which(tool) is None]
    if not iproute and not iptables:
        return
    remedy = None
    for name in _distribution():
        if name in _PACKAGES:
            install, of_iproute, of_iptables = _PACKAGES[name]
            wanted = [of_iproute] * bool(iproute) + [of_iptables[variant]] * bool(iptables)
            remedy = " ".join((install, *wanted))
            break
    yield Obstacle(f"not found in PATH: {', '.join(iproute + iptables)}", remedy)


def _distribution() -> list[str]:
    """What this distribution is, then what it is like, from /etc/os-release; empty if that does not say."""
    try:
        lines = _OS_RELEASE.read_text(errors="replace").splitlines()
    except OSError:
        return []
    values = {name: value.strip("\"'") for name, _, value in (line.partition("=") for line in lines)}
    names = [values.get("ID", ""), *values.get("ID_LIKE", "").split()]
    return ["fedora" if name in ("rhel", "centos") else name for name in names]


# --- kernel ----------------------------------------------------------------------------------------------------------------


def _missing_in_kernel(variant: Variant, families: Sequence[Family]) -> Iterator[Obstacle]:
    try:
        namespace = Namespace()
    except LabError as error:
        yield Obstacle(f"no new network namespace: {error}")
        return
    try:
        for kind, line in _LINKS.items():
            if complaint := _complaint(namespace, ["ip", *line.split()]):
                yield Obstacle(f"no {kind} interface in a network namespace: {complaint}", f"modprobe {kind}")
        if not _has_bridge_netfilter(namespace):
            yield Obstacle("no net.bridge.bridge-nf-call-iptables in a network namespace", "modprobe br_netfilter")
        for family in families:
            for table, rules in _RULES.items():
                yield from _missing_in_table(namespace, variant, family, table, rules)
        yield from _missing_conntrack(namespace)
    finally:
        namespace.close()


def _missing_in_table(
    namespace: Namespace, variant: Variant, family: Family, table: str, rules: dict[str, str]
) -> Iterator[Obstacle]:
    tool, command = variant.tool(family, "restore"), variant.command(family)
    chain = f"*{table}\n:KPSIM - [0:0]\n"
    if complaint := _complaint(namespace, [tool], f"{chain}COMMIT\n"):
        if variant is Variant.LEGACY:
            module = f"{'ip' if family is Family.IPV4 else 'ip6'}table_{table}"
            reason = f"the kernel has no {table} table for {command} (module {module}), the backend nft may do"
            yield Obstacle(f"{reason}: {complaint}", f"modprobe {module}")
        else:
            yield Obstacle(f"the kernel has no {table} table for {command}: {complaint}", "modprobe nft_compat")
        return
    for extension, rule in rules.items():
        text = f"-A {_CHAINS.get(extension, 'KPSIM')} {rule.format(address=_ADDRESSES[family])}\n"
        if complaint := _complaint(namespace, [tool], f"{chain}{text}COMMIT\n"):
            yield Obstacle(f"{command} cannot do {extension}: {complaint}")


def _missing_conntrack(namespace: Namespace) -> Iterator[Obstacle]:
    try:
        conntrack = LinuxConntrack(namespace)
        try:
            conntrack.flush()
        finally:
            conntrack.close()
    except (LabError, OSError) as error:
        yield Obstacle(f"no connection table over netlink: {error}", "modprobe nf_conntrack_netlink")


def _has_bridge_netfilter(namespace: Namespace) -> bool:
    with namespace.entered():
        return Path("/proc/sys/net/bridge/bridge-nf-call-iptables").exists()


def _complaint(namespace: Namespace, command: Sequence[str], text: str = "") -> str | None:
    """What a tool says against it, in a line; None: nothing."""
    try:
        namespace.run(command, stdin=text)
    except LabError as error:
        return str(error).partition("\n")[0]
    return None
