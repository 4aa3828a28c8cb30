"""Chain names of the iptables backend (I-2): fixed names, and names hashed from a service port or endpoint."""

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


_DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
#: two base32 digits for each value of ten bits: eight look-ups make a name, three times as fast as the base64 module
_PAIRS = tuple(first + second for first in _DIGITS for second in _DIGITS)


def chain_hash(text: str) -> str:
    """The first 16 characters of the base32 text of the SHA-256 (I-2.1)."""
    hashed, pairs = sha256(text.encode()).digest(), _PAIRS
    a, b = int.from_bytes(hashed[:5]), int.from_bytes(hashed[5:10])
    return (
        f"{pairs[a >> 30]}{pairs[a >> 20 & 0x3FF]}{pairs[a >> 10 & 0x3FF]}{pairs[a & 0x3FF]}"
        f"{pairs[b >> 30]}{pairs[b >> 20 & 0x3FF]}{pairs[b >> 10 & 0x3FF]}{pairs[b & 0x3FF]}"
    )


def service_hash_input(name: ServicePortName) -> str:
    """The text that is hashed for the four service chains of a port: its display string and protocol (I-2.1).

    Neither the family nor an address is in it.
    """
    return f"{name}{name.protocol.lower()}"
