"""Why packets fare differently: known differences between proxy modes, and what two clusters have differently.

A row of ``REASONS`` is a difference between modes that the specification describes. It explains packets of nodes whose
modes differ, as far as their fates look like it. What is left is explained by what the clusters' objects differ in.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from kpsim.comparison.behaviour.differences import Difference
from kpsim.comparison.behaviour.fates import Fate, Item, without_source_ports
from kpsim.comparison.behaviour.frontends import LOOPBACK, Frontend
from kpsim.comparison.behaviour.spaces import Values
from kpsim.exchange import Verdict
from kpsim.netfilter import Cause
from kpsim.packet import ICMP_PROTOCOLS
from kpsim.tracing.probes import ProbeResult


class Why(NamedTuple):
    """A reason in words, the place of the specification that says more, and the code by which ``--allow`` names it."""

    code: str
    words: str
    see: str = ""


class Circumstances(NamedTuple):
    """What a reason may look at."""

    difference: Difference
    frontend: Frontend | None
    in_service_network: bool

    @property
    def fates(self) -> tuple[Fate, Fate]:
        return self.difference.a, self.difference.b

    @property
    def results(self) -> set[ProbeResult]:
        return {fate.result for fate in self.fates}

    def is_loopback(self, values: Values) -> bool:
        """Whether all of these addresses are loopback addresses."""
        return list(LOOPBACK[self.difference.box.family].split(values)) == [True]

    def is_frontend(self, *kinds: str) -> bool:
        return self.frontend is not None and self.frontend.kind in kinds

    @property
    def items(self) -> Iterator[Item]:
        return (way.leaf for ways in self.difference.ways for way in ways)


class Reason(NamedTuple):
    """A known difference between modes."""

    why: Why
    holds: Callable[[Circumstances], bool]


def _pings(at: Circumstances) -> bool:
    return at.difference.box.protocol in ICMP_PROTOCOLS


def _only_exchanges_differ(at: Circumstances) -> bool:
    a, b = at.fates
    return a._replace(exchange=b.exchange) == b and Verdict.ANSWER_LOST in {
        verdict for verdict, _ in a.exchange | b.exchange
    }


def _hairpins(at: Circumstances) -> bool:
    """Whether endpoints send to their own Service, and only what becomes of their source differs."""
    chosen = [{seen.destination for seen, _, _ in fate.outcomes if seen is not None} for fate in at.fates]
    return chosen[0] == chosen[1] and all(low == high and low in chosen[0] for low, high in at.difference.box.source)


def _only_source_ports_differ(at: Circumstances) -> bool:
    a, b = map(without_source_ports, at.fates)
    return a == b


def _host_policy(at: Circumstances) -> bool:
    """Whether one side drops what the other accepts, the packet or its answer, by the policy of a chain."""
    if ProbeResult.DROPPED in at.results and any(item.cause is Cause.POLICY for item in at.items):
        return True
    answers = (item.by for item in at.items if item.verdict is Verdict.ANSWER_LOST)
    return _only_exchanges_differ(at) and any(by is not None and by.rule is None for by in answers)


REASONS = (
    Reason(
        Why("localhost-node-port", "nftables has no localhost node ports", "NFT-12.4"),
        lambda at: at.is_frontend("localhost node port"),
    ),
    Reason(
        Why("route-localnet", "only iptables mode lets addresses of 127.0.0.0/8 through (route_localnet)", "K-7.1"),
        lambda at: at.is_loopback(at.difference.box.source) or at.is_loopback(at.difference.box.destination),
    ),
    Reason(
        Why("host-firewall", "only iptables accepts Services' packets that the host's own policy drops", "NFT-12.2"),
        _host_policy,
    ),
    Reason(
        Why("node-port-address", "nftables serves node ports at the primary addresses of a node, iptables at all", "NFT-12.1"),
        lambda at: at.is_frontend("node port") and ProbeResult.PASSED in at.results,
    ),
    Reason(
        Why("ping", "nftables rejects pings of a cluster IP, which nobody answers in iptables mode", "NFT-12.7"),
        lambda at: _pings(at) and at.is_frontend("cluster IP"),
    ),
    Reason(
        Why("undefined-port", "nftables rejects ports of a cluster IP that its Service does not have", "NFT-12.5"),
        lambda at: at.frontend is not None and at.frontend.port is None and at.is_frontend("cluster IP"),
    ),
    Reason(
        Why("unallocated-address", "nftables drops packets to cluster IPs that no Service has", "NFT-12.6"),
        lambda at: at.frontend is None and at.in_service_network and ProbeResult.DROPPED in at.results,
    ),
    Reason(
        Why("source-ranges", "nftables checks source ranges before it translates, iptables after it", "NFT-12.11"),
        lambda at: at.is_frontend("load balancer IP") and not _pings(at) and ProbeResult.DROPPED in at.results,
    ),
    Reason(
        Why("source-port", "nftables always draws the source port of what it masquerades, iptables if it has --random-fully", "I-5"),
        _only_source_ports_differ,
    ),
    Reason(
        Why("hairpin", "nftables masquerades what an endpoint sends to itself only on the endpoint's own node", "NFT-6.5"),
        _hairpins,
    ),
    Reason(
        Why("invalid", "only iptables drops packets that connection tracking finds invalid", "NFT-12.3"),
        _only_exchanges_differ,
    ),
)  # fmt: skip

MODES = Why("mode", "the proxy modes differ", "NFT-12")
RULES = Why("rules", "the rules differ")

#: changed fields of a Service, by the place that says what they do
_FIELDS = {
    "externalTrafficPolicy": "T-7", "internalTrafficPolicy": "T-7", "sessionAffinity": "I-8", "sessionAffinityConfig": "I-8",
    "loadBalancerSourceRanges": "I-7", "trafficDistribution": "T-6.2",
}  # fmt: skip


def codes() -> tuple[str, ...]:
    """Every code of a reason."""
    found = [reason.why.code for reason in REASONS] + [MODES.code, RULES.code]
    return tuple(dict.fromkeys([*found, "service", "endpoints", "configuration", "node"]))


def known_difference(at: Circumstances) -> Why:
    """The difference between modes that explains packets' fates, of nodes whose modes differ."""
    return next((reason.why for reason in REASONS if reason.holds(at)), MODES)


def changed_fields(before: Any, after: Any) -> list[str]:
    """The fields of two objects' specs that differ, each with its two values in words."""
    names = sorted({*before, *after})
    return [
        f"{name} {_shown(before.get(name))} → {_shown(after.get(name))}"
        for name in names
        if before.get(name) != after.get(name)
    ]


def _shown(value: Any) -> str:
    match value:
        case None:
            return "unset"
        case str() | int() | bool():
            return str(value)
        case list() if all(isinstance(each, str) for each in value):
            return ", ".join(value) or "none"
        case _:
            return "other"


def place_of(changed: list[str]) -> str:
    """The place of the specification that says what the first changed field does."""
    return next((_FIELDS[each.split(" ")[0]] for each in changed if each.split(" ")[0] in _FIELDS), "")
