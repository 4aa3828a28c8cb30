"""IP addresses as integers, networks, and the textual forms that Kubernetes accepts (O-5.3).

Kubernetes reads stored addresses leniently: numbers with leading zeros are decimal. Addresses are printed canonically.
"""

import enum
import ipaddress
from dataclasses import dataclass
from functools import lru_cache
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton


class Family(enum.IntEnum):
    """IP family; the value is the IP version."""

    IPV4 = 4
    IPV6 = 6

    @property
    def label(self) -> str:
        """Kubernetes' name, as in ``spec.ipFamilies``, ``addressType`` and the metric label ``ip_family``."""
        return "IPv4" if self is Family.IPV4 else "IPv6"

    @property
    def bits(self) -> int:
        return 32 if self is Family.IPV4 else 128

    def mask(self, prefix: int) -> int:
        """The netmask of a prefix length."""
        return (1 << self.bits) - (1 << (self.bits - prefix))

    @classmethod
    def from_label(cls, label: str) -> "Family":
        """The family with this label. ValueError unless it is IPv4 or IPv6."""
        if label == "IPv4":
            return cls.IPV4
        if label == "IPv6":
            return cls.IPV6
        raise ValueError(f"not an IP family (IPv4 or IPv6): {label!r}")


@lru_cache(maxsize=1 << 17)
def parse_ip(text: str) -> tuple[Family, int] | None:
    """Family and integer value of an address, or None if the text is not one.

    Numbers with leading zeros are decimal. A zone and blanks are not allowed. An IPv4-mapped IPv6 address is an IPv4
    address, as in Go's net.IP.
    """
    if ":" not in text:
        try:
            return Family.IPV4, int.from_bytes(inet_pton(AF_INET, text))
        except (OSError, UnicodeEncodeError, ValueError):
            pass  # it may have leading zeros
        parts = text.split(".")
        if len(parts) != 4:
            return None
        value = 0
        for part in parts:
            if not (part.isascii() and part.isdigit()) or len(part.lstrip("0")) > 3 or (number := int(part[-3:])) > 255:
                return None
            value = value << 8 | number
        return Family.IPV4, value
    if "." in text:  # the embedded IPv4 part is read leniently too
        head, _, tail = text.rpartition(":")
        embedded = parse_ip(tail)
        if embedded is None or embedded[0] is not Family.IPV4:
            return None
        text = f"{head}:{embedded[1] >> 16:x}:{embedded[1] & 0xFFFF:x}"
    try:
        value = int.from_bytes(inet_pton(AF_INET6, text))
    except (OSError, UnicodeEncodeError, ValueError):
        return None
    if value >> 32 == 0xFFFF:
        return Family.IPV4, value & 0xFFFFFFFF
    return Family.IPV6, value


@lru_cache(maxsize=1 << 17)
def format_ip(family: Family, value: int) -> str:
    """The canonical text of an address."""
    if family is Family.IPV4:
        return inet_ntop(AF_INET, value.to_bytes(4))
    if value >> 32 == 0:
        return str(ipaddress.IPv6Address(value))  # inet_ntop would print ::1.2.3.4
    return inet_ntop(AF_INET6, value.to_bytes(16))


def canonical_ip(text: str, family: Family | None = None) -> str | None:
    """The canonical text of an address, or None if the text is not an address of ``family``."""
    if family is Family.IPV4 and ":" not in text:
        try:
            return inet_ntop(AF_INET, inet_pton(AF_INET, text))
        except (OSError, UnicodeEncodeError, ValueError):
            pass  # it may have leading zeros
    parsed = parse_ip(text)
    if parsed is None or (family is not None and parsed[0] is not family):
        return None
    return format_ip(*parsed)


def join_host_port(ip: str, port: int) -> str:
    """Address and port as ``ip:port``, for IPv6 as ``[ip]:port`` (O-6.3)."""
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def split_host_port(text: str) -> tuple[str, int]:
    """The inverse of :func:`join_host_port`. ValueError if there is no numeric port."""
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


@dataclass(frozen=True, slots=True)
class Network:
    """A CIDR. The host bits of its base are cleared."""

    family: Family
    base: int
    prefix: int

    @classmethod
    def around(cls, family: Family, address: int, prefix: int) -> "Network":
        """The network of this prefix length that contains the address."""
        return cls(family, address & family.mask(prefix), prefix)

    @property
    def mask(self) -> int:
        return self.family.mask(self.prefix)

    @property
    def last(self) -> int:
        """The highest address of the network."""
        return self.base + (1 << (self.family.bits - self.prefix)) - 1

    def __contains__(self, address: int) -> bool:
        return (address ^ self.base) >> (self.family.bits - self.prefix) == 0

    @property
    def is_zero(self) -> bool:
        """Whether the network has all addresses of the family: prefix length 0."""
        return self.prefix == 0

    def __str__(self) -> str:
        return f"{format_ip(self.family, self.base)}/{self.prefix}"


@lru_cache(maxsize=1 << 16)
def host_network(text: str) -> Network:
    """The network that contains only this address. ValueError if the text is not an address."""
    parsed = parse_ip(text)
    if parsed is None:
        raise ValueError(f"not an IP address: {text!r}")
    return Network(parsed[0], parsed[1], parsed[0].bits)


def parse_cidr(text: str) -> tuple[Network, int] | None:
    """The network of a CIDR and the address before its slash, or None if the text is not a CIDR.

    Numbers with leading zeros are decimal.
    """
    host, slash, prefix_text = text.partition("/")
    parsed = parse_ip(host)
    if parsed is None or not slash or not (prefix_text.isascii() and prefix_text.isdigit() and len(prefix_text) < 100):
        return None
    family, address = parsed
    prefix = int(prefix_text)
    if ":" in host and family is Family.IPV4:  # ::ffff:1.2.3.4/120 counts its prefix in IPv6 bits
        prefix -= 96
    if not 0 <= prefix <= family.bits:
        return None
    return Network.around(family, address, prefix), address


def parse_network(text: str) -> Network | None:
    """The network of a CIDR, or None if the text is not a CIDR."""
    parsed = parse_cidr(text)
    return parsed[0] if parsed else None
