"""Chain names of the iptables backend (I-2): fixed ones, and those hashed from a service port or endpoint."""

from base64 import b32encode
from hashlib import sha256

from kpsim.kubeproxy.trackers import ServicePortName

SERVICES = "KUBE-SERVICES"
EXTERNAL_SERVICES = "KUBE-EXTERNAL-SERVICES"
NODE_PORTS = "KUBE-NODEPORTS"
POSTROUTING = "KUBE-POSTROUTING"
MARK_MASQ = "KUBE-MARK-MASQ"
FORWARD = "KUBE-FORWARD"
PROXY_FIREWALL = "KUBE-PROXY-FIREWALL"
FIREWALL = "KUBE-FIREWALL"
CANARY = "KUBE-PROXY-CANARY"

#: prefixes of the chains that belong to one service port; only such chains are garbage-collected (I-2.3)
SERVICE_CHAIN_PREFIXES = ("KUBE-SVC-", "KUBE-SVL-", "KUBE-EXT-", "KUBE-FW-", "KUBE-SEP-")


def chain_hash(text: str) -> str:
    """First 16 characters of the base32 of the SHA-256 (I-2.1)."""
    return b32encode(sha256(text.encode()).digest()[:10]).decode()


def service_hash_input(name: ServicePortName) -> str:
    """What the four service chains of a port hash: its display string and protocol; neither family nor address."""
    return f"{name}{name.protocol.lower()}"
