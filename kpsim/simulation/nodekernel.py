"""A node's kernel as that node's kube-proxy sees it. ``machines`` has the kernels themselves."""

from collections.abc import Iterable
from typing import Protocol

from kpsim.addresses import Family
from kpsim.backends import IpvsConnections
from kpsim.config import HostInterface
from kpsim.kubeproxy.service_maps import ServiceMaps
from kpsim.kubeproxy.stale_flows import UdpFlow
from kpsim.programmed import Programmed
from kpsim.proxier import SyncResult


class Kernel(Protocol):
    """What kube-proxy reads and writes. It reads ``tcp_be_liberal`` once, at its start (CFG-6)."""

    @property
    def tcp_be_liberal(self) -> bool: ...

    @property
    def interfaces(self) -> tuple[HostInterface, ...]:
        """The machine's interfaces with their addresses."""

    def proxy_started(self) -> None:
        """Have the settings that kube-proxy writes at its start (CFG-4)."""

    def held(self, family: Family) -> Programmed | None:
        """Return what the kernel holds of a family, or None if nothing was programmed since it booted."""

    def load(self, programmed: Programmed) -> None: ...

    def synced(self, family: Family, result: SyncResult, maps: ServiceMaps, now_ns: int) -> None:
        """Note, for the run's reports, that these rules are in force."""

    def damaged(self, family: Family, now_ns: int) -> None:
        """Note, for the run's reports, that rules of Services were removed."""

    def ipvs_connections(self, family: Family, now_ns: int) -> IpvsConnections:
        """Return a function that counts ip_vs's connections to a real server."""

    def udp_flows(self, family: Family, now_ns: int) -> list[UdpFlow]: ...

    def delete_flows(self, family: Family, flows: Iterable[UdpFlow], now_ns: int) -> int: ...
