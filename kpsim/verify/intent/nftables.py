"""What is due at a node in nftables mode, where that differs from iptables mode (NFT-5, NFT-6, NFT-12)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from kpsim.verify.intent.due import Asked, Due, Fate, MeantNode
from kpsim.verify.intent.objects import End, MeantPort
from kpsim.verify.intent.settings import contains


@dataclass(frozen=True)
class NftablesNode(MeantNode):
    """A node whose kube-proxy runs in nftables mode.

    It guards load balancers before it looks for endpoints, and decides what no Service takes at the addresses of
    Services. It opens no policy of DROP, and has no wall around 127/8.
    """

    opens: ClassVar[bool] = False
    listed: ClassVar[int] = 65535  # NFT-6.11

    def due(self, asked: Asked) -> Due:
        end = asked.address, asked.port
        known = [port for port in self.ports if port.protocol == asked.protocol]
        claims = [port for port in known if end in (port.cluster, *port.external, *port.vips)]
        if len(claims) > 1:
            return Due(Fate.OPEN)  # the one that was written last has it (NFT-6.6)
        for port in claims:
            if end in port.vips and self._is_kept_out(port, asked):
                return Due(Fate.DROP, port=port)
            return self._to_itself(self._inside(port, asked) if port.cluster == end else self._outside(port, asked))
        if self.is_local(asked.address) and not self.is_loopback(asked.address):
            for port in known:
                if port.node_port and port.node_port == asked.port and self._accepts_node_ports(asked.address):
                    return self._to_itself(self._outside(port, asked))
        return self._stray(asked, None)

    def _is_kept_out(self, port: MeantPort, asked: Asked) -> bool:
        """Whether source ranges exclude the sender, endpoints or not (NFT-6.8)."""
        if not port.ranges or any(contains(each, asked.source) for each in port.ranges):
            return False
        of_node = self.node_ip is not None and any(contains(each, self.node_ip) for each in port.ranges)
        return not (of_node and any(asked.source == address for address, _ in port.vips))

    def _to_itself(self, due: Due) -> Due:
        """Only endpoints of this node are masqueraded when they reach themselves (NFT-5.5, NFT-6.5)."""
        return due if due.port is None else due._replace(selves=due.port.on_node)

    def _refusal(self, fate: Fate, port: MeantPort, asked: Asked) -> Due:
        return Due(fate, port=port)  # the checks stand in INPUT, FORWARD and OUTPUT (NFT-3.2)

    def _stray(self, asked: Asked, port: MeantPort | None) -> Due:
        """What no Service takes: other ports of a cluster IP are refused, other cluster IPs lead nowhere (NFT-5.8, 5.9)."""
        if any(each.cluster[0] == asked.address for each in self.ports):
            return Due(Fate.REJECT, port=port)
        if any(contains(each, asked.address) for each in self.service_networks):
            return Due(Fate.DROP, port=port)
        return Due(Fate.ALONE, port=port)

    def is_guarded(self, protocol: str, end: End) -> bool:
        return False  # guards look at packets before the choice of their endpoint

    def health_ports(self) -> Iterator[int]:
        return iter(())
