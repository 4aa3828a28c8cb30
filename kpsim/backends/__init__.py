"""What every proxy mode has to offer to the sync engine (``proxier``); each backend spells plans out in its own dialect."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from kpsim.kubeproxy.plan import ServicePlan
from kpsim.kubeproxy.trackers import ServiceKey
from kpsim.ruleset import Ruleset


@dataclass(frozen=True, slots=True)
class SyncRequest:
    """What the engine asks of a backend. ``changed`` maps each changed Service to its plans, empty if it is gone."""

    full: bool
    now_ns: int
    changed: dict[ServiceKey, list[ServicePlan]]
    endpoint_total: int
    refuse_document: bool = False  #: fault injection: the tool refuses the document and changes nothing


@dataclass(frozen=True, slots=True)
class Transaction:
    """What a backend did in one sync. ``documents`` render their text when called."""

    success: bool
    commands: tuple[str, ...] = ()  #: single commands before the documents
    documents: tuple[Callable[[], str], ...] = ()
    rules_total: dict[str, int] = field(default_factory=dict)  #: rules owned, by table
    rules_last: dict[str, int] = field(default_factory=dict)  #: rules written by this sync, by table
    restore_failed: bool = False
    no_local_endpoints: tuple[int, int] = (0, 0)  #: service ports refused for internal and external Local policy
    error: str = ""


class Backend(Protocol):
    """One family's rules on one node."""

    @property
    def ruleset(self) -> Ruleset:
        """What the kernel holds now."""

    @property
    def periodic_full_sync(self) -> bool:
        """Whether a full sync is due an hour after the last (I-12.3 c)."""

    def sync(self, request: SyncRequest) -> Transaction:
        """Bring the kernel's rules in line. A failure is a result, not an error."""

    def use_interface_addresses(self, addresses: Iterable[int]) -> None:
        """The machine's addresses of the family changed; read at the next sync."""

    def save(self) -> str:
        """What the mode's own tool prints of the rules that the kernel holds now, loadable by it again."""

    def flush(self) -> None:
        """Somebody removed all of this backend's rules behind its back."""

    def describe(self, transaction: Transaction) -> Callable[[], Mapping[str, Any]]:
        """What a recording's output says of a sync, under the mode's name, and of the state that the kernel has now;
        rendered when it is called, even after later syncs."""
