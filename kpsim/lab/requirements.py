"""What a machine must have for the lab: rights, tools, and a kernel that can do what kube-proxy's rules need in a
network namespace.

The kernel is tried in a new namespace, which is closed afterwards. The machine's own rules and interfaces are never
touched.
"""

import os
import platform
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from kpsim.addresses import Family
from kpsim.errors import InputError, Problem
from kpsim.lab.calls import LabError
from kpsim.lab.conntrack import LinuxConntrack
from kpsim.lab.namespace import Namespace
from kpsim.lab.packages import distribution, installing
from kpsim.lab.tools import Obstacle
from kpsim.lab.tools.iptables import PACKAGES, missing_commands, missing_in_kernel
from kpsim.lab.tools.variants import Variant

_STATUS = Path("/proc/self/status")

#: capabilities by their bit in the mask of effective ones; they are for interfaces and rules, raw sockets, namespaces
_CAPABILITIES = {12: "CAP_NET_ADMIN", 13: "CAP_NET_RAW", 21: "CAP_SYS_ADMIN"}

#: the package that holds iproute2, by distribution
_IPROUTE = {"debian": "iproute2", "fedora": "iproute", "alpine": "iproute2"}
_IPROUTE_TOOLS = ("ip", "bridge")

_LINKS = {"veth": "link add kpsim0 type veth peer name kpsim1", "bridge": "link add kpsim2 type bridge"}


def obstacles(variant: Variant, families: Iterable[Family] = tuple(Family)) -> list[Obstacle]:
    """Everything that keeps the lab from being built; empty if nothing does. The kernel is tried only if rights and
    tools are there.
    """
    if platform.system() != "Linux":
        return [Obstacle(f"needs Linux: this is {platform.system()}")]
    families = list(families)
    return [*_missing_rights(), *_missing_tools(variant, families)] or list(_missing_in_kernel(variant, families))


def require(variant: Variant, families: Iterable[Family] = tuple(Family), *, refused: str = "") -> None:
    """InputError that names all obstacles, if there are any. ``refused``: why this user gets no namespaces of its own."""
    if found := obstacles(variant, families):
        why = f"; {refused}" if refused else ""
        raise InputError([Problem(f"packets cannot be sent through Linux here: {obstacle}{why}") for obstacle in found])


def require_namespaces(*, refused: str = "") -> None:
    """LabError that names what is missing unless there can be network namespaces. ``refused`` as for :func:`require`."""
    if platform.system() != "Linux":
        raise LabError(f"nothing can be measured here: needs Linux: this is {platform.system()}")
    missing = [str(each) for each in _missing_rights()]
    if not missing:
        try:
            Namespace().close()
        except LabError as error:
            missing = [f"no new network namespace: {error}"]
    if missing:
        raise LabError(f"nothing can be measured here: {'; '.join([*missing, *filter(None, (refused,))])}")


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
    iptables = missing_commands(variant, families)
    if not iproute and not iptables:
        return
    remedy = None
    if (name := distribution()) is not None:
        remedy = installing(*[_IPROUTE[name]] * bool(iproute), *[PACKAGES[name][variant]] * bool(iptables))
    yield Obstacle(f"not found in PATH: {', '.join(iproute + iptables)}", remedy)


# --- kernel ----------------------------------------------------------------------------------------------------------------


def _missing_in_kernel(variant: Variant, families: Sequence[Family]) -> Iterator[Obstacle]:
    try:
        namespace = Namespace()
    except LabError as error:
        yield Obstacle(f"no new network namespace: {error}")
        return
    try:
        for kind, line in _LINKS.items():
            if complaint := namespace.complaint(["ip", *line.split()]):
                yield Obstacle(f"no {kind} interface in a network namespace: {complaint}", f"modprobe {kind}")
        if not _has_bridge_netfilter(namespace):
            yield Obstacle("no net.bridge.bridge-nf-call-iptables in a network namespace", "modprobe br_netfilter")
        yield from missing_in_kernel(namespace, variant, families)
        yield from _missing_conntrack(namespace)
    finally:
        namespace.close()


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
