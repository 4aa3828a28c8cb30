"""How often the clients of a drafted upgrade connect: often enough to meet the short moments in which pods go, so seldom that runs end soon."""

from collections.abc import Iterator, Mapping
from typing import Any

from kpsim.backends.table import traits_of
from kpsim.config import Mode
from kpsim.drafting.part import Part

_RATES = (10, 5, 2, 1)  #: connections a second of a source
_FEWER = 5  #: by what those are divided that take long
_WORK_S = 30  #: what the runs of all seeds may take
_SHORT_S, _WALKED_S = 0.25e-3, 1.2e-3  #: a connection that goes as others of its kind went, and one that does not
_NODE_S = 75  #: how long a node takes about
MOST_SOURCES = 60  #: if there are more, only one port of each Service is dialled


def nodes_in_turn(nodes: int, max_unavailable: int | str) -> int:
    """Return how often some nodes are begun with, one group after the other."""
    if isinstance(max_unavailable, str):
        max_unavailable = int(max_unavailable.rstrip("%")) * nodes // 100
    return -(-nodes // max(max_unavailable, 1))


def lessen(content: Part, mode: Mode, turns: int, seeds: int) -> Iterator[str]:
    """Give each source of traffic its rate. Sources that meet no endpoint go, and of very many only some remain. Yields what to tell."""
    traffic = [part for part in content["traffic"] if not part.head]  # the head says that nobody answers
    if len(traffic) > MOST_SOURCES:
        first: dict[tuple[str, str, str], Any] = {}
        for part in traffic:
            first.setdefault((part["service"], part["via"], part.get("ipFamily", "")), part)
        if len(first) < len(traffic):
            yield f"of Services with several ports one port is dialled, as there would be {len(traffic)} sources"
        traffic = list(first.values())
    walked = {each["metadata"]["namespace"] + "/" + each["metadata"]["name"] for each in _walked(content)}
    scheduled = traits_of(mode).tick_ns is not None  # ip_vs remembers connections, and kube-proxy looks after them
    slow = [scheduled or part["service"] in walked for part in traffic]
    one = sum(_WALKED_S / _FEWER if each else _SHORT_S for each in slow)
    cost = one * (30 + _NODE_S * turns) * max(seeds, 1)
    rate = next((each for each in _RATES if each * cost <= _WORK_S), _RATES[-1])
    for part, is_slow in zip(traffic, slow, strict=True):
        part["perSecond"] = rate / _FEWER if is_slow else rate
        part["arrivals"] = "poisson"
    content["traffic"] = traffic
    few = f", {rate / _FEWER:g} where clients are remembered or send datagrams" if any(slow) else ""
    yield f"guessed: {rate:g} connections a second for each of {len(traffic):,} traffic sources{few}"


def _walked(content: Part) -> Iterator[Mapping[str, Any]]:
    """The Services whose connections depend on earlier ones, or that have ports of other protocols than TCP."""
    for each in content["objects"]:
        spec = each.get("spec") or {}
        other = any(port.get("protocol", "TCP") != "TCP" for port in spec.get("ports") or ())
        if each["kind"] == "Service" and (spec.get("sessionAffinity") == "ClientIP" or other):
            yield each
