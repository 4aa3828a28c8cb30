"""The connection table answers as a table that searches all its entries does, after any operations."""

from hypothesis import given
from hypothesis import strategies as st
from packets import flow_entry

from kpsim.addresses import Family
from kpsim.conntrack import Clash, ConntrackTable, Entry, FlowTuple
from kpsim.flowstate import FlowState
from kpsim.rng import CHANCE_RANGE
from kpsim.sysctls import Sysctls
from kpsim.units import SECOND_NS

CLIENTS, VIPS, PODS = [f"203.0.113.{n}" for n in (1, 2)], ["172.30.0.1", "172.30.0.2"], ["10.180.0.3", "10.180.0.4"]
NODE = "192.168.0.1"


@st.composite
def connections(draw: st.DrawFn) -> Entry:
    """Connections of few clients, Services and endpoints, so that they meet."""
    client, vip, pod = draw(st.sampled_from(CLIENTS)), draw(st.sampled_from(VIPS)), draw(st.sampled_from(PODS))
    seen_from, port = draw(st.sampled_from([(client, 1), (NODE, 1), (NODE, 2)]))
    protocol = draw(st.sampled_from(["udp", "udp", "tcp"]))
    entry = flow_entry(protocol, (client, 1, vip, 53), (pod, 53, seen_from, port), created_ns=0, expires_ns=0)
    state = FlowState.NONE if protocol == "udp" else draw(st.sampled_from([FlowState.ESTABLISHED, FlowState.TIME_WAIT]))
    return entry._replace(
        assured=draw(st.booleans()), state=state, masquerade_device=draw(st.sampled_from(["", "eth0"]))
    )


SECONDS = st.integers(0, 5)
STEPS = st.one_of(
    st.tuples(st.just("confirm"), connections(), SECONDS),
    st.tuples(st.just("rearm"), st.integers(0, 20), SECONDS),
    st.tuples(st.just("delete"), st.integers(0, 20), SECONDS),
    st.tuples(st.sampled_from(["wait", "expire", "collect", "down"]), st.none(), SECONDS),
)


class Plain:
    """A list of entries."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def found(self, flow_tuple: FlowTuple, now_ns: int) -> Entry | None:
        live = (e for e in self.entries if e.expires_ns > now_ns)
        return next((e for e in live if flow_tuple in tuples(e)), None)

    def confirm(self, entry: Entry, now_ns: int) -> Clash | None:
        winner = self.found(entry.original, now_ns)
        if winner is None and self.found(entry.reply, now_ns) is None:
            self.add(entry)
            return None
        if winner is None or entry.original.protocol != "udp":
            return Clash.LOST
        if (winner.original, winner.reply) == (entry.original, entry.reply):
            return Clash.SAME_BINDING
        if self.found(entry.reply, now_ns) is not None:
            return Clash.LOST
        self.add(entry._replace(replies_only=True, expires_ns=now_ns + SECOND_NS))
        return Clash.REPLIES_ONLY

    def add(self, entry: Entry) -> None:
        """What it replaces has expired."""
        self.entries = [e for e in self.entries if not set(tuples(e)) & set(tuples(entry))] + [entry]


def tuples(entry: Entry) -> list[FlowTuple]:
    return [entry.reply] if entry.replies_only else [entry.original, entry.reply]


@given(st.lists(STEPS, max_size=30))
def test_the_table_answers_as_one_that_searches_everything(steps: list[tuple[str, Entry | int | None, int]]) -> None:
    table, plain, now_ns = ConntrackTable(), Plain(), 0
    for what, value, seconds in steps:
        later_ns = now_ns + seconds * SECOND_NS
        match what, value:
            case "confirm", Entry():
                entry = value._replace(created_ns=now_ns, expires_ns=later_ns)
                assert table.confirm(entry, now_ns) == plain.confirm(entry, now_ns)
            case "rearm" | "delete", int() if value < len(plain.entries):
                old = plain.entries.pop(value)
                if what == "delete":
                    assert table.delete(old.original, old.reply) == old
                else:
                    new = old._replace(expires_ns=later_ns, assured=not old.assured)
                    plain.entries.insert(value, new)
                    table.update(new)
            case "wait", _:
                now_ns = later_ns
            case "expire" | "collect", _:
                gone = table.expire(now_ns) if what == "expire" else table.collect(now_ns, Sysctls())
                assert {g.entry for g in gone} == {e for e in plain.entries if e.expires_ns <= now_ns}
                plain.entries = [e for e in plain.entries if e.expires_ns > now_ns]
            case "down", _:
                gone = table.interface_down("eth0")
                assert [g.entry for g in gone] == [e for e in plain.entries if e.masquerade_device == "eth0"]
                plain.entries = [e for e in plain.entries if not e.masquerade_device]
        compare(table, plain, now_ns)


def compare(table: ConntrackTable, plain: Plain, now_ns: int) -> None:
    assert list(table) == plain.entries
    for entry in plain.entries:
        for flow_tuple in tuples(entry):
            found = table.lookup(flow_tuple, now_ns)
            assert (found.entry if found else None) == plain.found(flow_tuple, now_ns)
    listed = [e for e in plain.entries if e.original.protocol == "udp" and not e.replies_only]
    assert list(table.udp_entries(Family.IPV4)) == listed
    live = [e for e in plain.entries if e.expires_ns > now_ns]
    pressure = table.pressure(now_ns, Sysctls(nf_conntrack_max=len(live), nf_conntrack_buckets=16)) if live else None
    assert table.pressure(now_ns, Sysctls(nf_conntrack_max=len(live) + 1)) is None
    if pressure is not None:
        unassured = [e for e in live if not e.assured]
        assert pressure == (len(unassured), (1 - 0.5 ** (2 * len(unassured))) * CHANCE_RANGE)
        assert {table.unassured(n, now_ns) for n in range(len(unassured))} == set(unassured)
