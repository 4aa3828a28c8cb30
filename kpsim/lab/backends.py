"""The two families of iptables tools, which keep their rules in different parts of the kernel and do not see each other's.

Counterpart: Debian's alternatives for ``iptables``. What rules say, this module never knows.
"""

import enum
from typing import Literal

from kpsim.addresses import Family

Purpose = Literal["restore", "save"]


class Variant(enum.StrEnum):
    """Whose rules the lab loads."""

    NFT = "nft"  #: rules become nf_tables rules
    LEGACY = "legacy"  #: ip_tables and ip6_tables, that newer kernels may lack

    def command(self, family: Family) -> str:
        """The tool that lists and changes single rules."""
        return f"{'iptables' if family is Family.IPV4 else 'ip6tables'}-{self.value}"

    def tool(self, family: Family, purpose: Purpose) -> str:
        """The tool that reads or writes all rules."""
        return f"{self.command(family)}-{purpose}"
