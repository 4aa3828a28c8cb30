"""Why kube-proxy wrote a rule. Traces print it and random draws are keyed by it; the kernel never sees it."""

import enum
from typing import NamedTuple


class Role(enum.StrEnum):
    """Why kube-proxy wrote a rule. FOREIGN: another program wrote it, or it was read from a dump and not recognised."""

    FOREIGN = "foreign"
    JUMP = "jump from a built-in chain"
    LOOPBACK_SOURCE = "packets from loopback addresses"
    LOCALNET_FIREWALL = "localnet firewall"
    INVALID_DROP = "drop of INVALID packets"
    FORWARD_ACCEPT = "forwarding of masqueraded packets"
    FORWARD_CONNTRACK = "forwarding of known connections"
    POSTROUTING = "masquerading"
    MARK_MASQ = "masquerade mark"
    SERVICES = "service dispatch"
    CLUSTER_IP = "cluster IP"
    UNDEFINED_PORT = "undefined port of a cluster IP"
    UNDEFINED_SERVICE_PORT = "undefined port of a service address"
    UNALLOCATED_CLUSTER_IP = "unallocated cluster IP"
    EXTERNAL_IP = "external IP"
    LOAD_BALANCER = "load balancer IP"
    NODE_PORT = "node port"
    NODE_PORTS = "node port dispatch"
    HEALTH_CHECK = "health check node port"
    NO_ENDPOINTS = "no endpoints"
    NO_LOCAL_ENDPOINTS = "no local endpoints"
    SOURCE_RANGE = "source range"
    SOURCE_RANGE_DROP = "source ranges: the rest"
    MASQUERADE_CLUSTER_IP = "masquerade for the cluster IP"
    MASQUERADE_EXTERNAL = "masquerade of external traffic"
    SHORT_CIRCUIT_POD = "pod traffic to an external address"
    SHORT_CIRCUIT_LOCAL = "node traffic to an external address"
    EXTERNAL_POLICY = "external traffic policy"
    AFFINITY = "session affinity"
    BALANCE = "load balancing"
    HAIRPIN = "hairpin masquerade"
    ENDPOINT = "endpoint"


class Origin(NamedTuple):
    """Why a rule exists. Traces print it and random draws are keyed by it, never by the rule's index."""

    role: Role
    service: str = ""  #: ``namespace/name:port`` (O-5.2), empty for static rules
    protocol: str = ""  #: ``TCP``, ``UDP``, ``SCTP``
    endpoint: str = ""  #: ``ip:port``


FOREIGN = Origin(Role.FOREIGN)
