"""Names of kube-proxy's table and of what is in it, and the hash in the names of per-service objects (NFT-2)."""

import base64
import hashlib
from functools import lru_cache

from kpsim.addresses import Family
from kpsim.backends.leftovers import NFTABLES_TABLE
from kpsim.kubeproxy.trackers import Endpoint, ServicePortName
from kpsim.ruleset import Space, TableKey

TABLE = NFTABLES_TABLE

SERVICES = "services"
MASQUERADING = "masquerading"
FIREWALL_CHECK = "firewall-check"
SERVICE_ENDPOINTS_CHECK = "service-endpoints-check"
NODE_PORT_ENDPOINTS_CHECK = "nodeport-endpoints-check"
CLUSTER_IPS_CHECK = "cluster-ips-check"
REJECT = "reject-chain"

CLUSTER_IPS = "cluster-ips"
NODE_PORT_IPS = "nodeport-ips"
HAIRPIN_CONNECTIONS = "hairpin-connections"
NO_ENDPOINT_SERVICES = "no-endpoint-services"
NO_ENDPOINT_NODE_PORTS = "no-endpoint-nodeports"
FIREWALL_IPS = "firewall-ips"
SERVICE_IPS = "service-ips"
SERVICE_NODE_PORTS = "service-nodeports"

AFFINITY_PREFIX = "affinity-"

_LONGEST = 240  #: the kernel takes 255 characters; the longest prefix must fit in front (NFT-2.2)
_ELLIPSIS = "..."


def table_key(family: Family) -> TableKey:
    """kube-proxy's table of one family (NFT-1.1)."""
    return TableKey(Space.of(family), TABLE)


def service_base(name: ServicePortName) -> str:
    """What the names of a service port's chains end in (NFT-2.1)."""
    return _hashed(_port_text(name))


def endpoint_base(name: ServicePortName, endpoint: Endpoint) -> str:
    """What the names of an endpoint's chain and affinity set end in. A name has no colon, so IPv6 is written with dots."""
    return _hashed(f"{_port_text(name)}__{endpoint.ip.replace(':', '.')}/{endpoint.port}")


def _port_text(name: ServicePortName) -> str:
    return f"{name.namespace}/{name.name}/{name.protocol.lower()}/{name.port}"


@lru_cache(maxsize=1 << 16)
def _hashed(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    named = f"{base64.b32encode(digest[:5]).decode()}-{text}"  # the first 8 characters of base32 are 5 bytes
    return named if len(named) <= _LONGEST else named[: _LONGEST - len(_ELLIPSIS)] + _ELLIPSIS


def is_service_chain(name: str) -> bool:
    """Whether a chain belongs to a service port (NFT-2.5)."""
    return "/" in name


def is_affinity_set(name: str) -> bool:
    """Whether a set remembers the clients of an endpoint (NFT-2.5)."""
    return name.startswith(AFFINITY_PREFIX)
