"""Answers to a survey's questions: every outcome of an exchange with its odds, as ``kpsim trace --expand`` finds them.

An exchange is followed to the node that chooses the endpoint (``heads``). What comes then depends on the endpoint's node and no longer
on the Service. So it is followed once for all plain pods of a node (``pods``), and remembered if it ends well. All else is followed to
its end.
"""

from collections.abc import Callable, Hashable, Iterator
from fractions import Fraction
from typing import NamedTuple

from kpsim.exchange import Exchange, Target, Verdict, WhatIf, exchange, why_lost
from kpsim.fabric import Hop, Journey, send
from kpsim.packet import Packet
from kpsim.packetpath.chooser import ScriptedChooser
from kpsim.surveys.heads import Chosen, Heads
from kpsim.surveys.pods import PlainPods, Pod
from kpsim.surveys.questions import Question
from kpsim.tracing.deciding import rule_name
from kpsim.tracing.outcomes import every_way, translating_hop
from kpsim.tracing.site import Sender, Site


class Outcome(NamedTuple):
    """What may become of an exchange. ``endpoint`` got the request; None: none did."""

    verdict: Verdict
    endpoint: Target | None = None
    masquerade: bool = False
    remembered: bool = False  #: the node that chose the endpoint keeps the client to it, for session affinity
    assumed: bool = False  #: it is not known whether something listens there
    why: str = ""  #: of an exchange that does not work
    by: str = ""  #: the rule that refused or lost it, if one did
    at: str = ""  #: the node where that was


Outcomes = dict[Outcome, Fraction]  #: each with its probability, in the order of the rules


class Known:
    """What is known of exchanges behind the choice of an endpoint, at sites whose nodes are alike but for their Services."""

    def __init__(self, pods: PlainPods) -> None:
        self.pods = pods
        self.works: dict[Hashable, tuple[bool, bool]] = {}  #: of exchanges that work: is it masqueraded, is it assumed
        self.served = False  #: ip_vs chooses endpoints, on one node at least


class Answerer:
    """Follows the packets of questions at a site. InputError if a client has no address to send from.

    ``known`` keeps what was found out. None: every exchange is followed to its end, as it must be if nodes have connections, or rules
    that are not kube-proxy's.
    """

    def __init__(self, site: Site, now_ns: int, known: Known | None = None, limit: int | None = None) -> None:
        self._site = site
        self._now_ns = now_ns
        self._known = known
        self._limit = limit
        self._heads = Heads(site, now_ns)

    def begin(self, question: Question) -> Packet:
        """The packet of a question as the first node gets it."""
        return self._site.begin(question.packet, question.node, question.client)

    def outcomes(self, question: Question, packet: Packet) -> Outcomes:
        """Every outcome of an exchange that a packet of :meth:`begin` begins. TooManyWays if there are more than the limit."""
        if self._known is None:
            self._site.use_free_port(packet, question.node, self._now_ns)
        found: Outcomes = {}
        for weight, outcome in self._ways(question, packet):
            found[outcome] = found[outcome] + weight if outcome in found else weight
        return found

    def _ways(self, question: Question, packet: Packet) -> Iterator[tuple[Fraction, Outcome]]:
        if self._known is None:
            return every_way(lambda chooser: self._followed(question, packet, chooser), self._limit)
        if not self._known.served:
            head = self._heads.follow(packet, question.node, local=question.client is Sender.NODE)
            if isinstance(head, Chosen):
                return self._of_choices(question, packet, head, self._known)
            self._known.served = any(hop.walk.server is not None for hop in head.hops)
        once = self._of_served if self._known.served else self._followed
        return every_way(lambda chooser: once(question, packet, chooser), self._limit)

    def _of_choices(
        self, question: Question, packet: Packet, head: Chosen, known: Known
    ) -> Iterator[tuple[Fraction, Outcome]]:
        """The outcomes of a packet whose endpoint rules choose."""
        for each in head.choices:
            pod = self._pod(packet, each.target, head) if each.bound else None
            key = None if pod is None else (
                question.client, question.node, head.node, packet.protocol, packet.saddr, each.saddr, each.sport, each.mark,
                pod, known.pods.kind_of(head.dialled.family, head.dialled.address),
            )  # fmt: skip
            if key is not None and key in known.works:
                masquerade, assumed = known.works[key]
                yield each.weight, Outcome(Verdict.WORKS, each.target, masquerade, each.remembered, assumed)
                continue
            ways = list(_from(each.script, lambda chooser: self._followed(question, packet, chooser)))
            yield from ways
            if key is not None and len(ways) == 1 and ways[0][1].verdict is Verdict.WORKS:
                known.works[key] = ways[0][1].masquerade, ways[0][1].assumed

    def _pod(self, packet: Packet, target: Target, head: Chosen) -> Pod | None:
        """The plain pod that is the endpoint; None: it is none, or what comes then may depend on more."""
        assert self._known is not None
        if target.address == packet.saddr:
            return None
        pod = self._known.pods.of(target, self._site)
        serves = pod is not None and self._site.serves(head.dialled, target, head.node) is not False
        return pod if serves else None

    def _of_served(self, question: Question, packet: Packet, chooser: ScriptedChooser) -> Outcome:
        """The outcome of a packet whose endpoint ip_vs chooses, at the node that it meets first or at another."""
        assert self._known is not None
        journey = send(
            self._site, packet, at_node=question.node, now_ns=self._now_ns, chooser=chooser,
            local=question.client is Sender.NODE, commit=False, until_translated=True,
        )  # fmt: skip
        key, drawn = self._key_of_served(question, packet, journey), len(chooser.taken)
        if key is not None and key in self._known.works:
            masquerade, assumed = self._known.works[key]
            target = Target.of(journey.packet)
            return Outcome(Verdict.WORKS, target, masquerade, _remembers(journey.hops), assumed)
        chooser.restart()
        outcome = self._followed(question, packet, chooser)
        if key is not None and outcome.verdict is Verdict.WORKS and len(chooser.taken) == drawn:
            self._known.works[key] = outcome.masquerade, outcome.assumed
        return outcome

    def _key_of_served(self, question: Question, packet: Packet, journey: Journey) -> Hashable:
        assert self._known is not None
        last, after = journey.hops[-1], journey.packet
        if not last.walk.binds or (question.client is Sender.PEER and len(journey.hops) > 1):
            return None  # the way may lead over the client's own node, which knows the connection
        before = Target.of(packet if len(journey.hops) == 1 else journey.hops[-2].walk.packet)
        pod = self._pod(packet, Target.of(after), Chosen(last.node, before, ()))
        if pod is None or after.saddr == after.daddr or (journey.end is not None) != (pod.node == last.node):
            return None
        return (
            "served", question.client, tuple([hop.node for hop in journey.hops]), packet.protocol, packet.saddr, after.saddr,
            after.sport, last.walk.masqueraded, pod, self._known.pods.kind_of(before.family, before.address),
        )  # fmt: skip

    def _followed(self, question: Question, packet: Packet, chooser: ScriptedChooser) -> Outcome:
        judged = exchange(
            WhatIf(self._site), packet, at_node=question.node, now_ns=self._now_ns, chooser=chooser,
            local=question.client is Sender.NODE,
        )  # fmt: skip
        return _outcome(judged)


def _from(script: tuple[int, ...], run: Callable[[ScriptedChooser], Outcome]) -> Iterator[tuple[Fraction, Outcome]]:
    """What ``run`` returns for the draws of a script, and for each combination of draws behind them."""
    scripts = [script]
    while scripts:
        chooser = ScriptedChooser(scripts.pop(), as_written=True)
        outcome = run(chooser)
        yield chooser.weight, outcome
        scripts += chooser.alternatives()


def _outcome(judged: Exchange) -> Outcome:
    hops = judged.last.request.hops
    # what is not translated may reach a node's own kernel, which is no endpoint
    seen = judged.seen if translating_hop(judged.last) is not None else None
    works = judged.verdict is Verdict.WORKS
    return Outcome(
        judged.verdict,
        None if seen is None else Target.of(seen),
        seen is not None and judged.masquerade,
        judged.relay is None and _remembers(hops),
        judged.assumed,
        "" if works else why_lost(judged),
        "" if judged.by is None else rule_name(judged.by, judged.request.sent.family),
        "" if works else judged.node,
    )


def _remembers(hops: tuple[Hop, ...]) -> bool:
    """Whether a node keeps the client to its endpoint: in a list, in a set, or with a template of ip_vs (PP-9)."""
    for hop in hops:
        touched = hop.walk.effects.touched
        if hop.walk.binds and (
            touched.recent
            or touched.sets
            or (touched.ipvs is not None and any(each.key.template for each in touched.ipvs.stored))
        ):
            return True
    return False
