"""How often kube-proxy writes rules: syncPeriod and minSyncPeriod of the mode's section (CFG-2.2, CP-9)."""

from collections.abc import Callable, Iterator

from kpsim.manifests.proxy_config import FIELDS
from kpsim.startup.modes import SECTIONS, facts_of, reads
from kpsim.startup.remarks import Remark, Words, costs, note, risk
from kpsim.startup.setting import Setting, differs
from kpsim.startup.situation import Situation
from kpsim.units import HOUR_NS, MINUTE_NS, SECOND_NS, format_duration, parse_duration_ns

GRACE_NS = 30 * SECOND_NS  #: a pod's terminationGracePeriodSeconds, if it has none


def _sync_does(s: Situation) -> str:
    period = format_duration(s.config.sync_period_ns)
    late = format_duration(2 * s.config.sync_period_ns)
    if s.traits.hastens_retry:
        retry = f"a failed sync is tried again {period} after its end, unless a change comes first"
    else:
        retry = f"a failed sync is not tried again of itself: the next comes with a change, or within {period}"
    more = f"; {facts_of(s).stale_chains}" if facts_of(s).stale_chains else ""
    return f"{retry}. /healthz and health check node ports answer 503 once a change has waited {late}. kube-proxy {facts_of(s).keeps_watch(s)}{more}"


def _sync_remarks(s: Situation) -> Iterator[Remark]:
    period_ns = s.config.sync_period_ns
    period = format_duration(period_ns)
    if period_ns > MINUTE_NS:
        yield risk(
            f"after a failure rules may be stale for {period}, and load balancers learn of it after {format_duration(2 * period_ns)}",
            "CP-9.3",
        )
    if not s.traits.partial_syncs and period_ns < 10 * SECOND_NS:
        yield costs(f"everything is written again every {period}, changed or not", "IPVS-1.2")
    elif period_ns < 5 * SECOND_NS:
        yield risk(
            f"a sync of {format_duration(2 * period_ns)} makes the node unhealthy: large clusters need longer for a full one",
            "CP-14.1",
        )


def _least_does(s: Situation) -> str:
    least_ns = s.config.min_sync_period_ns
    if least_ns == 0:
        return "no pause between syncs: changes that come during one are written together right after it"
    most = f", so there are at most {HOUR_NS // least_ns:,} syncs an hour" if least_ns <= HOUR_NS else ""
    least = format_duration(least_ns)
    return (
        f"the first change after a quiet {least} is written at once and alone; what comes then waits until {least} after that sync has ended{most}. While "
        f"changes never pause, one waits up to {least} and the sync that runs, on average half of both, and then for its own sync"
    )


def _asks(section: str, name: str) -> Callable[[Situation], bool]:
    """Whether a period is another one than by default. By flags the default of ipvs' minSyncPeriod is that of the others (CFG-2.2.1)."""

    def asks(s: Situation) -> bool:
        if name == "minSyncPeriod" and section == s.section and s.start.by_flags:
            return s.config.min_sync_period_ns != SECOND_NS
        return differs(s, f"{section}.{name}")

    return asks


def _least_remarks(s: Situation) -> Iterator[Remark]:
    least_ns = s.config.min_sync_period_ns
    if least_ns == 0:
        yield costs(
            "in a rollout every change may have its own sync, one after another; a large cluster spends a processor on it",
            "CP-9.2",
        )
    elif least_ns >= GRACE_NS:
        yield risk(
            f"a pod that ends is served for up to {format_duration(least_ns)}, and its grace period is {format_duration(GRACE_NS)} by default: "
            "connections go to pods that are gone", "CP-9.3",
        )  # fmt: skip
    elif least_ns > 5 * SECOND_NS:
        yield costs(
            f"new endpoints get traffic, and ending ones lose it, up to {format_duration(least_ns)} late; preStop must outlast that",
            "CP-9.3",
        )
    written = s.written(f"{s.section}.minSyncPeriod")
    if written is not None and parse_duration_ns(str(written)) == 0 and least_ns and not s.start.by_flags:
        yield note("0 in a file counts as unset here; only the flag can say 0", "CFG-2.2.2")
    if not s.start.by_flags and least_ns == 0 and written is None:
        yield note("by flags alone the default would be 1s", "CFG-2.2.1")
    if s.start.by_flags and written is None and s.duration_ns(f"{s.section}.minSyncPeriod") != least_ns:
        yield note(
            f"in a file the default would be {format_duration(s.duration_ns(f'{s.section}.minSyncPeriod'))}",
            "CFG-2.2.1",
        )


def not_of_the_mode(path: str) -> Words:
    """Why a field of a mode's section is not read, if it is not."""

    def unread(s: Situation) -> str:
        if reads(s.config.mode, path):
            return ""
        last = path.rpartition(".")[2]
        instead = next(
            (
                each
                for each in (f"{s.section}.{last}", f"iptables.{last}")
                if _is_field(each) and reads(s.config.mode, each)
            ),
            "",
        )
        return f"{s.config.mode} mode reads {instead}" if instead else f"{s.config.mode} mode has no such setting"

    return unread


def _is_field(path: str) -> bool:
    section, _, name = path.partition(".")
    return name in FIELDS[section]  # type: ignore[operator]  # a section is a mapping


def _in_force(section: str, name: str, attribute: str) -> Callable[[Situation], str]:
    """The period in force in the mode that reads the section, else what is written."""

    def in_force(s: Situation) -> str:
        if section == s.section:
            return format_duration(getattr(s.config, attribute))
        return str(s.value(f"{section}.{name}"))

    return in_force


ROWS = tuple(
    Setting(
        f"{section}.{name}", does, see, remarks, _in_force(section, name, attribute), unread=not_of_the_mode(f"{section}.{name}"),
        asks=_asks(section, name),
    )
    for section in SECTIONS
    for name, attribute, does, see, remarks in (
        ("syncPeriod", "sync_period_ns", _sync_does, "CP-9, CP-13, CP-14, CFG-2.2.4", _sync_remarks),
        ("minSyncPeriod", "min_sync_period_ns", _least_does, "CP-9.2", _least_remarks),
    )
)  # fmt: skip
