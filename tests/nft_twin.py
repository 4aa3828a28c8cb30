"""A node in the model and in Linux, with tables of nft."""

from collections.abc import Sequence

from labs import shot
from packets import POD

from kpsim.addresses import Family
from kpsim.dialects import dialect_reading
from kpsim.dialects.iptables import parse
from kpsim.lab.wires import Shot
from kpsim.netfilter import Walk
from kpsim.ruleset import united
from kpsim.verify.twin import Twin

V4, V6 = Family.IPV4, Family.IPV6
SPACES = {V4: "ip", V6: "ip6"}
#: beside the guards, which need connection tracking too
_BESIDE = "*filter\n-A FORWARD -m conntrack --ctstate INVALID -j DROP\nCOMMIT\n"


class NftTwin:
    """A node in the model and in Linux, and what was loaded beside its iptables rules."""

    def __init__(self, twin: Twin) -> None:
        self.twin, self.family = twin, twin.family
        beside = parse(_BESIDE, self.family)
        assert twin.load(beside) is None
        self._beside = beside
        self._tables: list[str] = []

    def load(self, text: str) -> None:
        """Replaces the tables of nft. Connections are forgotten."""
        gone = "".join(f"table {table}\ndelete table {table}\n" for table in self._tables)
        self._tables = [
            line.split("{")[0].removeprefix("table").strip() for line in text.splitlines() if line.startswith("table")
        ]
        self.twin.linux.namespace.run(["nft", "-f", "-"], stdin=gone + text)
        self.twin.forget()
        self.twin.model.memory.buckets = {}  # they went with their rules
        (rules,) = dialect_reading(text).parse(text, self.family)
        self.twin.model.load_rules(united(self._beside, rules))

    def agree(self, *shots: Shot) -> list[Walk]:
        """The model's walks of a batch. AssertionError if Linux does otherwise with one of its packets."""
        found = self.twin.exchange(shots)
        differences = {str(each.shot.packet): list(map(str, each.differences)) for each in found if each.differences}
        assert differences == {}, differences
        return [each.walk for each in found]

    def members(self) -> frozenset[str]:
        """The destination ports in the set ``s`` of table ``t``, as Linux lists them."""
        listed = self.twin.linux.namespace.run(["nft", "list", "set", SPACES[self.family], "t", "s"])
        elements = listed.partition("elements = {")[2].partition("}")[0]
        return frozenset(each.split()[0] for each in elements.split(",") if each.strip())


def out(dport: int, *, to: str = POD, **more: object) -> Shot:
    """A TCP packet from outside."""
    return shot(V4, "client", to, dport, **more)  # type: ignore[arg-type]


def ends(walks: Sequence[Walk]) -> list[str]:
    return [str(each.disposition) for each in walks]


def arrivals(walks: Sequence[Walk]) -> list[tuple[str, int]]:
    return [(each.packet.destination, each.packet.dport) for each in walks]
