"""What a test reads of kube-proxy's nftables table and of the transactions that a sync sent."""

import re
from collections.abc import Iterable
from typing import Any

from proxiers import NODE_IP, Rig, endpoint, endpoint_slice, make_settings, service

from kpsim.addresses import Family
from kpsim.backends.table import make_backend
from kpsim.config import Host, Mode
from kpsim.proxier import Proxier, SyncResult

HOST = Host(node_ips=(NODE_IP, "2001:db8::2"), service_cidrs=("172.30.0.0/16", "fd00:172:30::/112"))
CLIENT_IP = {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}}}
LOCAL, REMOTE = "10.180.0.3", endpoint("10.180.1.4", "node-2")


def nft_rig(family: Family = Family.IPV4, host: Host = HOST, **config: Any) -> Rig:
    """A proxier in nftables mode. ``config`` are fields of ProxyConfig."""
    return Rig(make_settings(family, host, mode=Mode.NFTABLES, **config))


def web_rig(*, family: Family = Family.IPV4, host: Host = HOST, **config: object) -> Rig:
    """A rig with Service shop/web and two endpoints, synced once."""
    rig = nft_rig(family, host, **config)
    rig.apply(service(), endpoint_slice(endpoints=[LOCAL, REMOTE]))
    assert rig.sync().full
    return rig


def restarted(rig: Rig, mode: Mode = Mode.NFTABLES) -> Rig:
    """A new process on the same machine, with the objects that the API server has now."""
    started = Rig(make_settings(host=HOST, mode=mode))
    started.proxier = Proxier(
        started.settings, make_backend(started.settings), created_ns=rig.now_ns, held=rig.proxier.held
    )
    started.proxier.services_synced()
    started.proxier.slices_synced()
    started.now_ns = rig.now_ns
    started.apply(*rig.cluster.services, *rig.cluster.endpoint_slices)
    return started


def documents(result: SyncResult) -> list[list[str]]:
    """The lines of each transaction, without ``ip kube-proxy``."""
    return [_short(document()) for document in result.transaction.documents]


def sent(result: SyncResult) -> list[str]:
    """The lines of the last transaction."""
    return documents(result)[-1]


def table(rig: Rig) -> list[str]:
    """The lines that make the table that the kernel holds."""
    shown: Any = rig.proxier.backend.describe(rig.proxier.no_sync().transaction, rig.proxier.machine)()
    return _short(shown["nftables"]["ruleset"])


def rules(rig: Rig, chain: str) -> list[str]:
    """The rules of a chain; of a service port's chain the beginning of its name is enough."""
    start = f"add rule {chain}"
    return [line.split(" ", 3)[3] for line in table(rig) if line.startswith(start)]


def elements(rig: Rig, container: str) -> list[str]:
    """The elements of a set or map, without braces."""
    start = f"add element {container} {{ "
    return [line.removeprefix(start).removesuffix(" }") for line in table(rig) if line.startswith(start)]


def unhashed(lines: Iterable[str]) -> list[str]:
    """The lines without the hashes in the names of service ports' objects (NFT-2.2)."""
    return [re.sub("-[A-Z2-7]{8}-", "-", line) for line in lines]


def _short(text: str) -> list[str]:
    return [line.replace(" ip kube-proxy", "", 1).replace(" ip6 kube-proxy", "", 1) for line in text.splitlines()]
