"""The two variants of the iptables tools. Each keeps its rules in another part of the kernel, and does not see the
other's.

Counterpart: Debian's alternatives for ``iptables``.
"""

import enum
from typing import Literal

from kpsim.addresses import Family

Purpose = Literal["restore", "save"]


class Variant(enum.StrEnum):
    """Which iptables loads the rules."""

    NFT = "nft"  #: rules become nf_tables rules
    LEGACY = "legacy"  #: ip_tables and ip6_tables, which newer kernels may lack

    def command(self, family: Family) -> str:
        """The command that lists and changes single rules."""
        return f"{'iptables' if family is Family.IPV4 else 'ip6tables'}-{self.value}"

    def tool(self, family: Family, purpose: Purpose) -> str:
        """The command that reads or writes all rules."""
        return f"{self.command(family)}-{purpose}"
