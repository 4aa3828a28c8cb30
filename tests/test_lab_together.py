"""Several tools as one: which tables each gets, in which order, and what is left alone (K-9.1)."""

from collections.abc import Iterator

from kpsim.addresses import Family
from kpsim.lab.tools import Remembered
from kpsim.lab.tools.together import Together
from kpsim.maps import Map
from kpsim.ruleset import Base, Chain, ChainType, Hook, Ruleset, Space, Table, TableKey

V4 = Family.IPV4
FILTER, PROXY = TableKey(Space.IP, "filter"), TableKey(Space.IP, "kube-proxy")


class Written:
    """A tool that writes down what it is told."""

    def __init__(self, name: str, log: list[str], *tables: TableKey) -> None:
        self.name, self._log, self._tables = name, log, tables
        self.held = Ruleset(V4)
        self.is_in_use = False

    def manages(self, table: TableKey) -> bool:
        return table in self._tables or not self._tables

    def load(self, ruleset: Ruleset) -> None:
        self._log.append(f"{self.name}: {' '.join(map(str, ruleset.tables)) or 'nothing'}")
        self.held, self.is_in_use = ruleset, True

    def printed(self, ruleset: Ruleset) -> str:
        return "".join(f"{self.name} {key} {len(table.chains)}\n" for key, table in ruleset.tables.items())

    def saved(self) -> str:
        return self.printed(self.held)

    def first_difference(self, expected: str, held: str) -> tuple[str, str] | None:
        return None if expected == held else (expected, held)

    def without_guards(self, saved: str) -> str:
        return saved

    def counted(self) -> Iterator[str]:
        return iter((self.name,))

    def reset_counters(self) -> None:
        self._log.append(f"{self.name}: counters")

    def forget(self) -> None:
        self._log.append(f"{self.name}: forget")

    def lists(self) -> frozenset[str]:
        return frozenset((f"list of {self.name}",))

    def lists_in_rules(self) -> frozenset[str]:
        return self.lists()

    def remembered(self, name: str) -> Remembered:
        return {"10.180.0.1": None} if name in self.lists() else {}


def rules(*keys: TableKey, chains: int = 1) -> Ruleset:
    base = Base(ChainType.FILTER, Hook.INPUT, 0)
    made = Map({f"c{number}": Chain(f"c{number}", (), base) for number in range(chains)})
    return Ruleset.of(V4, *(Table(key, made) for key in keys))


def tools() -> tuple[Together, list[str]]:
    log: list[str] = []
    return Together(Written("iptables", log, FILTER), Written("nft", log)), log


def test_a_table_belongs_to_the_first_tool_that_manages_it() -> None:
    both, log = tools()
    both.load(rules(PROXY, FILTER))
    assert log == ["iptables: filter", "nft: kube-proxy"]
    assert both.name == "iptables and nft"


def test_a_tool_without_tables_is_never_called() -> None:
    both, log = tools()
    both.load(rules(PROXY))
    both.forget()
    both.reset_counters()
    assert log == ["nft: kube-proxy", "nft: forget", "nft: counters"]
    assert (both.name, both.lists(), list(both.counted())) == ("nft", {"list of nft"}, ["nft"])


def test_rules_that_stay_are_not_registered_again_in_front_of_others() -> None:
    """iptables-restore makes its tables anew, so that their chains would run before chains of equal priority."""
    both, log = tools()
    both.load(rules(FILTER, PROXY))
    log.clear()
    both.load(rules(FILTER, PROXY, chains=1))
    assert log == []
    both.load(Ruleset.of(V4, *rules(FILTER).tables.values(), *rules(PROXY, chains=2).tables.values()))
    assert log == ["nft: kube-proxy"]
    log.clear()
    both.load(rules(FILTER, PROXY, chains=3))
    assert log == ["iptables: filter", "nft: nothing", "nft: kube-proxy"]


def test_a_tool_that_loses_its_tables_does_so_last() -> None:
    """Were there no NAT for a moment, Linux would stop to track connections (K-1.5)."""
    both, log = tools()
    both.load(rules(PROXY))
    both.load(rules(FILTER))
    assert log == ["nft: kube-proxy", "iptables: filter", "nft: nothing"]


def test_texts_are_compared_tool_by_tool() -> None:
    both, _ = tools()
    loaded = rules(FILTER, PROXY)
    both.load(loaded)
    assert both.printed(loaded) == both.without_guards(both.saved())
    assert both.first_difference(both.printed(loaded), both.saved()) is None
    assert both.first_difference(both.printed(rules(FILTER, PROXY, chains=2)), both.saved()) == (
        "iptables filter 2\n", "iptables filter 1\n",
    )  # fmt: skip
    assert both.remembered("list of nft") == {"10.180.0.1": None}
    assert both.remembered("list of nobody") == {}
