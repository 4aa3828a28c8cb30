"""The account of a start: would kube-proxy run, what it does to its machine, and each setting with what it means."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kpsim.manifests.proxy_start import ProxyStart
from kpsim.startup import clients, general, periods, tracking, virtual_servers
from kpsim.startup.conditions import Condition, Severity, conditions
from kpsim.startup.modes import reads
from kpsim.startup.remarks import Kind, Remark
from kpsim.startup.setting import Setting, differs, shown, zero_of
from kpsim.startup.situation import Situation
from kpsim.startup.steps import Change, Step, steps

#: every field of a KubeProxyConfiguration, in the order in which it is told
SETTINGS: tuple[Setting, ...] = (
    *general.ROWS[:1], *clients.ROWS, *periods.ROWS, *virtual_servers.ROWS, *tracking.ROWS, *general.ROWS[1:],
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """A setting as it counts here. ``unread`` and ``moot`` say why it decides nothing, if so."""

    path: str
    value: str
    default: bool
    origin: str  #: where the value is written; empty: nowhere
    does: str
    see: str
    remarks: tuple[Remark, ...]
    unread: str = ""
    moot: str = ""
    asked: bool = False  #: whether somebody asks for something else than the default

    @property
    def telling(self) -> bool:
        """Whether a reader should see it at once: it is asked for, or at risk."""
        return self.asked or self.at_risk

    @property
    def at_risk(self) -> bool:
        return any(each.kind is Kind.RISK for each in self.remarks)


@dataclass(frozen=True, slots=True)
class Difference:
    """What is different on other nodes than the one that is told about."""

    nodes: tuple[str, ...]
    words: tuple[str, ...]
    fatal: bool = False  #: kube-proxy does not start there


@dataclass(frozen=True, slots=True)
class Account:
    """A start on one node. Without ``steps`` and ``rows`` kube-proxy ends before it touches its machine."""

    node: str
    where: str
    mode: str
    families: tuple[str, ...]
    conditions: tuple[Condition, ...]
    steps: tuple[Step, ...] = ()
    rows: tuple[Row, ...] = ()
    others: tuple[Difference, ...] = ()

    @property
    def starts(self) -> bool:
        return not self.of(Severity.FATAL)

    def of(self, severity: Severity) -> tuple[Condition, ...]:
        return tuple(each for each in self.conditions if each.severity is severity)

    @property
    def holds(self) -> bool:
        """Whether kube-proxy starts on every node, and everything that is asked for takes effect."""
        return self.starts and not self.of(Severity.INEFFECTIVE) and not any(each.fatal for each in self.others)

    @property
    def changes(self) -> tuple[Change, ...]:
        return tuple(change for step in self.steps for change in step.changes)


def refused(start: ProxyStart, node: str = "") -> Account:
    """The account of a configuration that kube-proxy refuses: it ends before it touches its machine (CP-12)."""
    names = [Condition(Severity.FATAL, "invalid-configuration", str(each), "CFG-2, CP-12") for each in start.refusals]
    return Account(node, start.where, "", (), tuple(names))


def account_of(situations: Sequence[Situation]) -> Account:
    """The account of the first situation, with what differs on the nodes of the others."""
    first = situations[0]
    told = _told(first)
    others: dict[tuple[bool, tuple[str, ...]], list[str]] = {}
    alike: dict[tuple[object, ...], Account] = {}  # of large clusters most nodes are
    for each in situations[1:]:
        if (other := alike.get(each.kind)) is None:
            other = alike[each.kind] = _told(each)
        if words := tuple(_differences(told, other)):
            others.setdefault((not other.starts, words), []).append(each.name)
    differing = tuple(Difference(tuple(names), words, fatal) for (fatal, words), names in others.items())
    return Account(told.node, told.where, told.mode, told.families, told.conditions, told.steps, told.rows, differing)


def _told(s: Situation) -> Account:
    rows = tuple(_row(setting, s) for setting in SETTINGS)
    found = (*conditions(s), *_ineffective(s, rows))
    return Account(
        s.name,
        s.start.where,
        str(s.config.mode),
        tuple(family.label for family in s.families),
        found,
        _reached(s, found),
        rows,
    )


def _reached(s: Situation, found: Sequence[Condition]) -> tuple[Step, ...]:
    """The steps that kube-proxy comes to, the one in which it ends included."""
    last = min((each.step for each in found if each.step), default=None)
    return steps(s)[:last]


# ---------------------------------------------------------------------------------------------------------------- rows


def _row(setting: Setting, s: Situation) -> Row:
    origin, written = s.origin(setting.path), s.written(setting.path)
    default = not (differs(s, setting.path) if setting.asks is None else setting.asks(s))
    unread, moot = setting.unread(s), setting.moot(s)
    does = "" if unread else setting.does(s)
    remarks = () if unread else tuple(setting.remarks(s))
    return Row(
        path=setting.path,
        value=shown(setting.value(s), zero_of(setting.path)),
        default=default or written is None,
        origin=origin.words if origin is not None and written is not None else "",
        does=does,
        see=setting.see,
        remarks=remarks,
        unread=unread,
        moot=moot if written is not None else "",
        asked=written is not None and (not default or bool(moot)),
    )


# --------------------------------------------------------------------------------------------------------- ineffective


def _ineffective(s: Situation, rows: Sequence[Row]) -> Iterator[Condition]:
    for row in rows:
        if row.asked and (why := row.unread or row.moot):
            name = "not-read" if row.unread else "without-effect"
            yield Condition(Severity.INEFFECTIVE, name, f"{row.path} {row.value}: {why}", row.see, row.origin)
    in_force = {row.path: row.value for row in rows}
    for flag in s.start.ignored_flags:
        path = ".".join(map(str, flag.path))
        counts = path if reads(s.config.mode, path) else f"{s.section}.{path.rpartition('.')[2]}"
        said, now = shown(flag.value, zero_of(path)), in_force.get(counts)
        if now is None or (now != said and not now.endswith(f":{said}")):  # a port is part of an address
            instead = f"{s.config.mode} mode has no such setting" if now is None else f"in force is {counts} {now}"
            words = f"--{flag.name}={said} stands beside --config and is ignored; {instead}"
            yield Condition(Severity.INEFFECTIVE, "flag-beside-file", words, "CFG-1.1", flag.where)
    for path, where in s.start.unknown_fields:
        yield Condition(
            Severity.INEFFECTIVE,
            "unknown-field",
            f"{path}: kube-proxy does not know this field and passes over it",
            "CFG-1.1",
            where,
        )


# ------------------------------------------------------------------------------------------------------ other nodes


def _differences(first: Account, other: Account) -> Iterator[str]:
    """Yield what is told of another node and not of the first."""
    known = {(each.severity, each.name) for each in first.conditions}
    for each in other.conditions:
        if (each.severity, each.name) not in known:
            yield (
                f"kube-proxy ends in step {each.step}: {each.words}" if each.step else f"{each.severity}: {each.words}"
            )
    if not other.starts:
        return
    if not first.starts:
        yield "kube-proxy starts"
    if first.families != other.families:
        yield f"primary family {other.families[0]}"
    already = {each.path for each in first.rows if each.at_risk}
    if risks := [each.path for each in other.rows if each.at_risk and each.path not in already]:
        yield f"at risk: {', '.join(risks)}"
    before = {change.name: change for change in first.changes}
    for change in other.changes:
        if before.get(change.name) != change:
            yield f"{change.name} {change.new:,}" + (f" ({change.how})" if change.how else "")
