"""What is due to a client that a Service remembers (PP-9): one endpoint while it is bound, all of them afterwards."""

from collections.abc import Iterable

import pytest
from shop import CONFIG, NODES, endpoints, port, service

from kpsim.addresses import Family
from kpsim.explore import load
from kpsim.netfilter import Netns, Walk, expand, walk
from kpsim.packet import Packet
from kpsim.packetpath.chooser import SeededChooser
from kpsim.units import SECOND_NS
from kpsim.verify.intent.judging import Intent, Unmeant, intent_of
from kpsim.verify.intent.settings import MeantSettings, settings_in
from kpsim.verify.intent.watching import Onlooker

V4 = Family.IPV4
_AT_NS, _TIMEOUT_S = 100 * SECOND_NS, 600
_CLIENT, _OTHER, _VIP = (203 << 24 | 113 << 8 | 7), (203 << 24 | 113 << 8 | 8), (172 << 24 | 30 << 16 | 10)


class Watched:
    """A node of the model, and its onlooker, behind the first packet of one client."""

    def __init__(self) -> None:
        sticky = f"sessionAffinity: ClientIP, sessionAffinityConfig: {{clientIP: {{timeoutSeconds: {_TIMEOUT_S}}}}}"
        texts = [
            NODES, CONFIG, service("web", f"clusterIP: 172.30.0.10, {port(80)}, {sticky}"),
            endpoints("web", 8080, {"10.180.1.5": "node-2", "10.180.2.5": "node-3"}),
        ]  # fmt: skip
        cluster = load(text="---\n".join(texts))
        objects = [cluster.state.objects[key].json for key in sorted(cluster.state.objects)]
        machine = cluster.site.machine("node-1")
        settings = settings_in({"clusterCIDR": "10.180.0.0/16"})

        def intent(found: object, of: MeantSettings) -> Intent:
            return intent_of(objects, of, "node-1", V4, machine)

        self.node: Netns = cluster.site.netns("node-1", V4)
        self.onlooker = Onlooker(V4, "node-1", settings, intent)
        self.onlooker.look(objects)
        first = self.packet(_CLIENT, 40000)
        way = walk(self.node, first, now_ns=_AT_NS, chooser=SeededChooser(1, 1), local=False)
        self.node.commit(way.effects, _AT_NS)
        assert self.onlooker.saw(first, way, _AT_NS) == []

    def packet(self, source: int, sport: int) -> Packet:
        return Packet(V4, "tcp", source, _VIP, sport, 80, in_interface="eth0")

    def ways(self, packet: Packet, now_ns: int) -> Iterable[Walk]:
        return [way for _, way in expand(self.node, packet, now_ns=now_ns, local=False)]

    def foresees(self, behind_s: float, *, model_s: float | None = None, source: int = _CLIENT) -> list[Unmeant]:
        """What is unmeant of a packet so long behind the first, if for the model ``model_s`` have passed."""
        packet = self.packet(source, 40001)
        now_ns, model_ns = (_AT_NS + int(s * SECOND_NS) for s in (behind_s, behind_s if model_s is None else model_s))
        return self.onlooker.foresees(packet, lambda: self.ways(packet, model_ns), now_ns)


@pytest.mark.parametrize("behind_s", [0.5, 300, 599, 601, 5000])
def test_a_right_model_is_as_it_is_meant(behind_s: float) -> None:
    assert Watched().foresees(behind_s) == []
    assert Watched().foresees(behind_s, source=_OTHER) == []


def test_a_model_that_forgets_early_is_seen_whatever_linux_draws() -> None:
    [found] = Watched().foresees(599, model_s=601)
    assert found.what == "affinity of 203.0.113.7 to shop/web:p (tcp)"
    assert found.done == "10.180.1.5:8080 or 10.180.2.5:8080"
    assert found.due in found.done.split(" or ")


def test_a_model_that_remembers_too_long_is_seen_whatever_linux_draws() -> None:
    [found] = Watched().foresees(601, model_s=599)
    assert found.due == "10.180.1.5:8080 or 10.180.2.5:8080"
    assert found.done in found.due.split(" or ")


def test_nothing_is_said_so_close_to_the_end() -> None:
    watched = Watched()
    assert watched.foresees(599.95, model_s=601) == watched.foresees(600.05, model_s=599) == []
