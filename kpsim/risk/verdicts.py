"""What an assessment says: for each Service a verdict, why, what helps, and what is left after each event."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from kpsim.risk.rules import RULES, Cause, Helps, any_of


@dataclass(frozen=True, slots=True)
class Finding:
    """A reason why a Service is at risk.

    ``seconds`` is for how long clients lose, at most; None: until an operator acts, or the node is back. ``helps`` are the remedies of the
    table that fit here, each with its numbers. Each helps by itself.
    """

    cause: Cause
    event: str  #: such as ``draining node-a``; empty: now
    nodes: tuple[str, ...]
    clients: str
    seconds: float | None
    words: str
    helps: Helps

    @property
    def remedy(self) -> str:
        """All that helps, in words."""
        return any_of(self.helps.values())

    def to_json(self) -> dict[str, Any]:
        return {
            "cause": self.cause.value,
            "event": self.event,
            "nodes": list(self.nodes),
            "clients": self.clients,
            "seconds": self.seconds,
            "why": self.words,
            "remedy": self.remedy,
            "remedies": [each.value for each in self.helps],
            "source": RULES[self.cause].source,
        }


@dataclass(frozen=True, slots=True)
class Left:
    """What is left of a Service after an event: ready endpoints while the pods are gone, and after they have been replaced."""

    event: str  #: drained, node lost, zone lost
    subject: str  #: the node or zone
    before: int
    during: int
    after: int
    serving_nodes: tuple[str, ...]  #: nodes with a ready endpoint while the pods are gone

    def to_json(self) -> dict[str, Any]:
        return {
            "event": self.event,
            "subject": self.subject,
            "before": self.before,
            "during": self.during,
            "after": self.after,
            "servingNodes": list(self.serving_nodes),
        }


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict on a Service. ``risk`` None: it is not judged, and ``notes`` say why."""

    service: str
    risk: bool | None
    about: str
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    left: tuple[Left, ...] = ()

    @property
    def word(self) -> str:
        return {True: "AT RISK", False: "ok", None: "not judged"}[self.risk]

    @property
    def why(self) -> str:
        """All reasons in one line."""
        return "; ".join(each.words for each in self.findings)

    @property
    def remedy(self) -> str:
        """All that helps, each once."""
        return "; ".join(dict.fromkeys(each.remedy for each in self.findings))

    def to_json(self) -> dict[str, Any]:
        return {
            "service": self.service,
            "risk": self.risk,
            "about": self.about,
            "why": self.why,
            "remedy": self.remedy,
            "findings": [each.to_json() for each in self.findings],
            "notes": list(self.notes),
            "left": [each.to_json() for each in self.left],
        }


@dataclass(frozen=True, slots=True)
class Assessment:
    """The verdicts on the Services of a cluster, those at risk first, then by name."""

    verdicts: Sequence[Verdict]
    assumed: tuple[str, ...] = field(default=())  #: what the numbers rest on, a line each

    @property
    def at_risk(self) -> Sequence[Verdict]:
        return [each for each in self.verdicts if each.risk]

    def to_json(self) -> dict[str, Any]:
        return {"services": [each.to_json() for each in self.verdicts], "assumed": list(self.assumed)}
