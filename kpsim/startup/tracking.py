"""Settings of connection tracking: the size of its table, and its timeouts (CFG-2.4, CFG-4, CT-4, CT-7)."""

from collections.abc import Iterator

from kpsim.nodes import MOST_CONNECTIONS
from kpsim.startup.modes import facts_of
from kpsim.startup.remarks import Remark, Words, costs, note, risk
from kpsim.startup.setting import Setting
from kpsim.startup.situation import Situation
from kpsim.sysctls import SETTINGS
from kpsim.units import HOUR_NS, SECOND_NS, format_duration

#: of an entry without extensions, as /proc/slabinfo shows it on Linux 6.18; accounting, helpers and labels add to it
ENTRY_BYTES = 256
BUCKET_BYTES = 8  #: of the hash table: the head of a list
LARGE_BYTES = 4 << 30  #: of a machine whose kernel makes the table of :class:`Sysctls` by itself
_MUCH = 0.25  #: of a machine's memory
KEEPALIVE_NS = (
    2 * HOUR_NS
)  #: when Linux begins to ask whether an idle peer is there, where applications ask for keepalives


def arithmetic(s: Situation) -> str:
    """How kube-proxy comes to nf_conntrack_max; empty if it leaves it (CFG-4.1)."""
    each, least = s.config.conntrack_max_per_core, s.config.conntrack_min
    if not each:
        return ""
    scaled = each * s.cores
    product = f"{each:,} × {s.cores:,} {'core' if s.cores == 1 else 'cores'} = {scaled:,}"
    if scaled > MOST_CONNECTIONS:
        return f"{product}, capped at {MOST_CONNECTIONS:,}"
    return f"{product}, at least {least:,} (min)" if scaled < least else product


def table_bytes(s: Situation) -> int:
    """The memory of a full table and of its hash, in bytes."""
    return s.after.nf_conntrack_max * ENTRY_BYTES + s.after.nf_conntrack_buckets * BUCKET_BYTES


def mebibytes(count: int) -> str:
    """Bytes as ``34 MiB``."""
    return f"{count / 2**20:,.0f} MiB" if count < 100 * 2**30 else f"{count / 2**30:,.0f} GiB"


def _max_does(s: Situation) -> str:
    if not s.config.conntrack_max_per_core:
        return f"0: nf_conntrack_max stays as the machine has it ({s.before.nf_conntrack_max:,}), and min counts for nothing"
    return f"nf_conntrack_max = {s.after.nf_conntrack_max:,}: {arithmetic(s)}; the hash gets a quarter of it, if it has less"


def _max_remarks(s: Situation) -> Iterator[Remark]:
    if not s.after.nf_conntrack_max:
        yield note("0 connections is no limit to the kernel", "CT-7.1")
        return
    used = table_bytes(s)
    part = 100 * used / s.memory if s.memory else 0
    share = (
        f", {f'{part:.0f}' if part >= 1 else 'less than 1'} % of the machine's {mebibytes(s.memory)}"
        if s.memory
        else ""
    )
    words = f"a full table takes {mebibytes(used)}{share}: {ENTRY_BYTES} bytes for an entry at least, {BUCKET_BYTES} for each of {s.after.nf_conntrack_buckets:,} buckets"
    yield (risk if s.memory and used > _MUCH * s.memory else costs)(words, "measured on Linux 6.18")
    if not s.config.conntrack_max_per_core:
        return
    if s.after.nf_conntrack_max < s.before.nf_conntrack_max:
        full = "A full table drops the first packet of new connections, silently"
        if "net.netfilter.nf_conntrack_max" in s.given.sysctls:
            yield risk(
                f"the machine had {s.before.nf_conntrack_max:,}: kube-proxy lowers it. {full}", "CFG-4.1, CT-7.2"
            )
        elif s.memory is None or s.memory > LARGE_BYTES:
            yield note(
                f"Linux itself takes {s.before.nf_conntrack_max:,} on a large machine: kube-proxy lowers that. {full}",
                "CFG-4.1, CT-7",
            )
    if s.config.conntrack_max_per_core * s.cores > MOST_CONNECTIONS:
        yield note(
            f"since 1.36 more than {MOST_CONNECTIONS:,} comes from min alone, and only if the product is not above it",
            "CFG-4.1, VER-1",
        )


def _min_does(s: Situation) -> str:
    scaled = s.config.conntrack_max_per_core * s.cores
    if scaled > MOST_CONNECTIONS:
        return "the product of maxPerCore and cores is capped before min is looked at"
    if scaled and scaled < s.config.conntrack_min:
        return f"nf_conntrack_max = {s.after.nf_conntrack_max:,}: min is above the {scaled:,} of maxPerCore × cores"
    return "the least nf_conntrack_max, with few cores"


def _min_remarks(s: Situation) -> Iterator[Remark]:
    scaled = s.config.conntrack_max_per_core * s.cores
    if scaled > MOST_CONNECTIONS and s.config.conntrack_min > MOST_CONNECTIONS:
        yield risk(f"{MOST_CONNECTIONS:,} is less than min: the cap comes first", "CFG-4.1")


def _min_moot(s: Situation) -> str:
    return "" if s.config.conntrack_max_per_core else "conntrack.maxPerCore is 0"


def _timeout_does(name: str, attribute: str, what: str) -> Words:
    setting = SETTINGS[f"net.netfilter.nf_conntrack_{name}"]

    def does(s: Situation) -> str:
        before, after = setting.of(s.before), setting.of(s.after)
        if not getattr(s.config, attribute):
            return f"0: {what} as the machine has it, {before:,} s"
        return f"{what} for {after:,} s" + (f"; the machine had {before:,} s" if after != before else "")

    return does


def _cut(ns: int) -> Iterator[Remark]:
    """A duration is written in whole seconds, the rest is cut off."""
    if 0 < ns < SECOND_NS:
        yield risk(f"{format_duration(ns)} becomes 0 s: entries end at once, and with them translation", "CFG-2.4")
    elif ns % SECOND_NS:
        yield note(f"{format_duration(ns)} is cut to {format_duration(ns // SECOND_NS * SECOND_NS)}", "CFG-2.4")


def _established_remarks(s: Situation) -> Iterator[Remark]:
    yield from _cut(s.config.conntrack_tcp_established_timeout_ns)
    idle_ns = s.after.tcp_timeout_established_ns
    if idle_ns <= KEEPALIVE_NS:
        yield risk(
            f"Linux sends keepalives after {format_duration(KEEPALIVE_NS)}, if the application asks for them: a connection idle for {format_duration(idle_ns)} loses its "
            "entry first, its next packet goes to some endpoint, and that resets it. Shorter keepalives or HTTP/2 pings prevent it",
            "CT-4.5",
        )  # fmt: skip
    else:
        yield costs(
            f"a connection whose ends vanished without data under way holds its entry for {format_duration(idle_ns)}",
            "CT-4.1",
        )


def _close_wait_remarks(s: Situation) -> Iterator[Remark]:
    yield from _cut(s.config.conntrack_tcp_close_wait_timeout_ns)
    held_ns = s.after.tcp_timeout_close_wait_ns
    if held_ns < 60 * SECOND_NS:
        yield risk("a server that is silent for longer after its client's FIN loses its client", "CT-4.1")
    elif held_ns > 60 * SECOND_NS:
        yield costs(
            f"a connection that one side does not close holds its entry for {format_duration(held_ns)}; the kernel's own value is 60 s",
            "CT-4.1",
        )


def _liberal_does(s: Situation) -> str:
    if s.config.conntrack_tcp_be_liberal:
        kept = "nf_conntrack_tcp_be_liberal becomes 1: segments out of window belong to their connection"
    else:
        kept = f"nf_conntrack_tcp_be_liberal stays {int(s.before.tcp_be_liberal)}"
    return f"{kept}. INVALID packets: {facts_of(s).invalid}"


def _liberal_remarks(s: Situation) -> Iterator[Remark]:
    if s.config.conntrack_tcp_be_liberal:
        yield note("never set back: with false again, 1 stays until the machine restarts", "CFG-2.4")
        yield costs("the whole machine tracks TCP loosely; only an RST out of window is still INVALID", "CT-4.4")


def _liberal_moot(s: Situation) -> str:
    if not s.config.conntrack_tcp_be_liberal and s.before.tcp_be_liberal:
        return "the machine has 1, and kube-proxy never writes 0"
    return ""


def _udp_remarks(s: Situation) -> Iterator[Remark]:
    yield from _cut(s.config.conntrack_udp_timeout_ns)
    if SECOND_NS <= s.after.udp_timeout_ns < 5 * SECOND_NS:
        yield risk(
            "resolvers wait 5 s for an answer: one that comes later finds no entry, and is not translated back", "CT-5"
        )
    elif s.after.udp_timeout_ns > 60 * SECOND_NS:
        yield costs(
            f"each DNS question holds an entry for {s.after.udp_timeout_ns // SECOND_NS:,} s: count questions a second × that against nf_conntrack_max",
            "CT-5.1",
        )


def _stream_remarks(s: Situation) -> Iterator[Remark]:
    yield from _cut(s.config.conntrack_udp_stream_timeout_ns)
    if s.after.udp_timeout_stream_ns > 300 * SECOND_NS:
        yield costs(
            "a client that keeps its port stays with its endpoint as long as it sends within this time, dead or alive unless the clean-up sees it",
            "CT-5.2",
        )


ROWS = (
    Setting("conntrack.maxPerCore", _max_does, "CFG-4.1", _max_remarks),
    Setting("conntrack.min", _min_does, "CFG-4.1", _min_remarks, moot=_min_moot),
    Setting(
        "conntrack.tcpEstablishedTimeout", _timeout_does("tcp_timeout_established", "conntrack_tcp_established_timeout_ns", "an idle TCP connection is remembered"),
        "CFG-4.2, CT-4.1", _established_remarks,
    ),
    Setting(
        "conntrack.tcpCloseWaitTimeout", _timeout_does("tcp_timeout_close_wait", "conntrack_tcp_close_wait_timeout_ns", "a half-closed TCP connection is remembered"),
        "CFG-4.2, CT-4.1", _close_wait_remarks,
    ),
    Setting("conntrack.tcpBeLiberal", _liberal_does, "CFG-4.2, CT-4.4", _liberal_remarks, moot=_liberal_moot),
    Setting(
        "conntrack.udpTimeout", _timeout_does("udp_timeout", "conntrack_udp_timeout_ns", "a UDP exchange of one question is remembered"), "CFG-4.2, CT-5.1", _udp_remarks
    ),
    Setting(
        "conntrack.udpStreamTimeout", _timeout_does("udp_timeout_stream", "conntrack_udp_stream_timeout_ns", "a UDP flow that goes on is remembered"),
        "CFG-4.2, CT-5.1", _stream_remarks,
    ),
)  # fmt: skip
