"""The changes that a sync has put into a node's rules, as the log keeps them, with what kube-proxy measured of each (CP-11.2)."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from kpsim.kubeproxy.trackers import ServiceKey
from kpsim.objects import ANNOTATION_TRIGGER_TIME, EndpointSlice, Service
from kpsim.proxier import SyncResult
from kpsim.simulation.apiserver import Change
from kpsim.simulation.runlog import Programming
from kpsim.units import parse_rfc3339_ns


@dataclass(frozen=True, slots=True)
class Delivery:
    """A change that was handed to a process, and when."""

    change: Change
    at_ns: int


def programmed(
    deliveries: Iterable[Delivery],
    result: SyncResult,
    node: str,
    family: str,
    *,
    start_ns: int,
    now_ns: int,
    clock_ns: int,
) -> Iterator[Programming]:
    """Yield a record for each change. ``clock_ns`` is what the node's clock shows now, in nanoseconds since 1970."""
    samples = Counter(result.trigger_times_ns)
    for delivery in deliveries:
        change = delivery.change
        service, trigger_ns = service_and_trigger(change)
        reported_ns = None
        if trigger_ns is not None and samples[service, trigger_ns] > 0:
            samples[service, trigger_ns] -= 1
            reported_ns = clock_ns - trigger_ns
        yield Programming(
            change=str(change),
            service=str(service),
            node=node,
            family=family,
            trigger_ns=change.trigger_ns,
            written_ns=change.written_ns,
            delivered_ns=delivery.at_ns,
            sync_start_ns=start_ns,
            programmed_ns=now_ns,
            reported_ns=reported_ns,
            cause=change.cause,
            had_trigger_time=trigger_ns is not None,
        )


def service_and_trigger(change: Change) -> tuple[ServiceKey, int | None]:
    """Return the Service that a change concerns, and the trigger time that its slice says, in nanoseconds since 1970."""
    obj = change.event.object
    match obj:
        case EndpointSlice():
            text = obj.metadata.annotations.get(ANNOTATION_TRIGGER_TIME, "")
            try:
                trigger_ns = parse_rfc3339_ns(text) if text and change.event.new is not None else None
            except ValueError:
                trigger_ns = None
            return ServiceKey(obj.metadata.namespace, obj.service_name), trigger_ns
        case Service():
            return ServiceKey(obj.metadata.namespace, obj.metadata.name), None
        case _:
            return ServiceKey("", ""), None
