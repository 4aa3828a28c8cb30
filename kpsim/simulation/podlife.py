"""A pod as a run knows it: what is true of it, what its kubelet thinks, and what the API server has been told."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from kpsim.objects import ObjectKey
from kpsim.scenario.workload_schema import Workload
from kpsim.simulation.probing import Worker


@dataclass(frozen=True, slots=True)
class PodReport:
    """The part of a pod's status that endpoints depend on. A pod that no kubelet has reported has neither (CP-3.4.1)."""

    address: bool = False  #: the status names the pod's addresses
    ready: bool = False
    changed: str = ""  #: lastTransitionTime of the Ready condition; empty: there is no such condition


@dataclass(slots=True, eq=False)
class PodLife:
    """One pod. ``life`` counts its containers' starts: what was planned for an earlier life does not happen."""

    workload: Workload
    name: str
    node: str
    ips: tuple[str, ...]  #: one for each family of the cluster
    number: int  #: order of creation within the workload
    revision: int
    ordinal: int | None = None  #: of a pod of a StatefulSet
    target: str = ""  #: of a pod of a DaemonSet: the only node that it may run on
    answers: bool = False  #: the application accepts connections and datagrams
    exists: bool = True  #: its network namespace and address exist
    refuses: bool = False  #: an event lets its readiness probe fail although the application answers
    stuck: bool = False  #: an event lets its liveness probe fail
    late: bool = False  #: probes that fail by an event get no answer
    running_ns: int | None = None  #: since when its container runs, as its kubelet knows; only of pods with probes
    started: bool = True  #: its startup probe has passed, or there is none
    contained: bool = False  #: its containers are ready; it is Ready if its gates are open, too
    gates_ns: int | None = None  #: when its readiness gates open; None: its containers were never ready
    readiness: Worker | None = None  #: asks by its readiness probe
    kills: int = 0  #: how often its container was ended because of a probe
    available_ns: int | None = None  #: when it has been ready for long enough; None: it is not ready
    leaves: bool = False  #: it has gone unready after SIGTERM, for good
    status: PodReport = PodReport()  #: what the kubelet thinks
    told: PodReport = PodReport()  #: what the API server has been told
    terminating: bool = False  #: its deletion has been requested
    shutting_down: bool = False  #: its kubelet ends it, because the machine shuts down
    failed: bool = False  #: the API server has it as Failed: it does not start again
    deleted: str | None = None  #: the API object's deletionTimestamp
    in_api: bool = False
    life: int = 0
    drawn: Counter[str] = field(default_factory=Counter)  #: draws by stage, so that each has a number of its own
    created_ns: int = 0  #: when the API server has the object
    written_ns: int = 0  #: when the kubelet's last write reaches the API server; its later writes arrive after it
    dead_since_ns: int | None = None  #: when its node lost power; what its kubelet had not sent by then is never sent
    labels: Mapping[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.labels = self.workload.labels_of(self.name)

    @property
    def key(self) -> ObjectKey:
        return ObjectKey("Pod", self.workload.namespace, self.name)
