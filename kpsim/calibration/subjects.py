"""The tools that can be measured, and for each the commands by which a sync's calls are played."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from kpsim.addresses import Family
from kpsim.backends.work import Act, Call, Tool
from kpsim.calibration.clusters import Syncs, Written
from kpsim.lab.accounting import LinuxAccounting
from kpsim.lab.calls import LabError
from kpsim.lab.namespace import Namespace
from kpsim.lab.packages import not_found
from kpsim.lab.tools.variants import Variant

_COUNTERS = ("ct_state_invalid_dropped_pkts", "localhost_nps_accepted_pkts")  #: that kube-proxy's rules name (I-4)


class Command(NamedTuple):
    """A command and its standard input."""

    words: tuple[str, ...]
    stdin: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """Commands that are run one after the other. ``call`` is what they are to a sync; None: they only prepare."""

    name: str
    call: Call | None
    commands: tuple[Command, ...]


@dataclass(frozen=True, slots=True)
class Subject:
    """A tool of this machine. ``key`` names it in the file of costs."""

    key: str
    tool: Tool
    version: tuple[str, ...]  #: a command whose first line says the version
    package: str
    trial: tuple[Command, ...]  #: commands that only a machine can do on which the tool can be measured
    steps: Callable[[Syncs], Iterator[Step]]
    prepare: Callable[[Namespace], None] = lambda _: None


def obstacle(subject: Subject) -> str | None:
    """Return why a tool cannot be measured here, or None. It is tried in a new namespace. LabError if there can be none."""
    for command in (*subject.trial, Command(subject.version)):
        if shutil.which(command.words[0]) is None:
            return not_found(command.words[0], "is to be measured", subject.package)
    namespace = Namespace()
    try:
        subject.prepare(namespace)
        for command in subject.trial:
            namespace.run(command.words, stdin=command.stdin)
    except LabError as error:
        return str(error).partition("\n")[0]
    finally:
        namespace.close()
    return None


def versions(subject: Subject) -> str:
    """Return the first line of what a tool says of itself."""
    from kpsim.lab.calls import call

    try:
        return call(subject.version).partition("\n")[0].strip()
    except LabError:
        return ""


def _documents(name: str, tool: Tool, written: Written, words: Sequence[str]) -> Iterator[Step]:
    """Return a step for each document of a sync, with the call that it is."""
    calls = [call for call in written.calls if (call.tool, call.act) == (tool, Act.WRITE)]
    texts = (document() for document in written.documents)
    for call, text in zip(calls, filter(None, texts), strict=False):
        yield Step(name, call, (Command(tuple(words), text),))


def _named(syncs: Syncs) -> Iterator[tuple[str, Written]]:
    yield "first", syncs.first
    yield "again", syncs.again
    yield from (("partial", part) for part in syncs.partial)
    yield "deletion", syncs.deletion


def _reads(tool: Tool, written: Written) -> list[Call]:
    return [call for call in written.calls if (call.tool, call.act) == (tool, Act.READ)]


# --- iptables ----------------------------------------------------------------------------------------------------------


def _count(namespace: Namespace) -> None:
    accounting = LinuxAccounting(namespace)
    try:
        for name in _COUNTERS:
            accounting.create(name)
    finally:
        accounting.close()


def iptables(variant: Variant) -> Subject:
    """Return iptables-restore, iptables-save and iptables of one variant."""
    family = Family.IPV4
    restore, save, single = variant.tool(family, "restore"), variant.tool(family, "save"), variant.command(family)
    jump = ("OUTPUT", "-m", "comment", "--comment", "kubernetes service portals", "-j", "KUBE-SERVICES")

    def steps(syncs: Syncs) -> Iterator[Step]:
        for name, written in _named(syncs):
            if name == "again":
                yield Step("prepare", None, (Command((single, "-w", "5", "-t", "nat", "-I", *jump)),))
                check = next(call for call in written.calls if call.act is Act.CHECK)
                yield Step("check", replace_times(check, 1), (Command((single, "-w", "5", "-t", "nat", "-C", *jump)),))
            if name != "first":
                for call in _reads(Tool.IPTABLES, written):
                    yield Step("save", call, (Command((save, "-t", "nat")),))
            yield from _documents(name, Tool.IPTABLES, written, (restore, "-w", "5", "--noflush", "--counters"))

    trial = Command(
        (restore,),
        "*nat\n:KPSIM - [0:0]\n-A KPSIM -m comment --comment probe -m statistic --mode random --probability 0.5 -j RETURN\nCOMMIT\n"
        "*filter\n-A INPUT -m nfacct --nfacct-name ct_state_invalid_dropped_pkts -j DROP\nCOMMIT\n",
    )
    return Subject(f"iptables-{variant}", Tool.IPTABLES, (single, "--version"), "iptables", (trial,), steps, _count)


def replace_times(call: Call, times: int) -> Call:
    """Return so many of these calls."""
    return call._replace(times=times)


# --- nft ---------------------------------------------------------------------------------------------------------------

_TABLE = ("ip", "kube-proxy")


def _nft_steps(syncs: Syncs) -> Iterator[Step]:
    for name, written in _named(syncs):
        if name != "first":
            objects, *elements = _reads(Tool.NFT, written)
            lists = tuple(Command(("nft", "--json", "list", kind, "ip")) for kind in ("chains", "sets"))
            yield Step("list", objects, lists)
            for call in elements:
                sets = (("set", "cluster-ips"), ("set", "hairpin-connections"), ("map", "service-ips"), ("map", "firewall-ips"),
                        ("map", "no-endpoint-services"), ("map", "no-endpoint-nodeports"), ("map", "service-nodeports"))  # fmt: skip
                each = tuple(Command(("nft", "--json", "list", kind, *_TABLE, of)) for kind, of in sets)
                yield Step("list elements", call, each)
        yield from _documents(name, Tool.NFT, written, ("nft", "-f", "-"))


def nft() -> Subject:
    """Return nft with the documents that it is given and the listings that kube-proxy up to 1.36 asks for (NFT-8.4)."""
    trial = Command(("nft", "-f", "-"), 'add table ip kpsim { comment "a trial" ; }\n')
    return Subject("nft", Tool.NFT, ("nft", "--version"), "nftables", (trial,), _nft_steps)


# --- ipset -------------------------------------------------------------------------------------------------------------

_SET = "KUBE-CLUSTER-IP"
_CREATE = ("ipset", "create", _SET, "hash:ip,port", "family", "inet", "hashsize", "1024", "maxelem", "65536", "-exist")


def _address(number: int) -> str:
    return f"172.{30 + number // 65536}.{number // 256 % 256}.{number % 256}"


def _ipset_steps(syncs: Syncs) -> Iterator[Step]:
    entries = min(syncs.size.services, 60_000)  # a set takes 65,536
    yield Step("create", Call(Tool.IPSET, Act.CHECK), (Command(_CREATE),))
    lines = "".join(f"add {_SET} {_address(number)},tcp:80 -exist\n" for number in range(entries))
    yield Step("prepare", None, (Command(("ipset", "restore"), lines),))
    yield Step("create again", Call(Tool.IPSET, Act.CHECK), (Command(_CREATE),))
    yield Step("list", Call(Tool.IPSET, Act.READ, held=entries), (Command(("ipset", "list", _SET)),))
    for verb in ("del", "add"):
        words = ("ipset", verb, _SET, f"{_address(0)},tcp:80", "-exist")
        yield Step(verb, Call(Tool.IPSET, Act.WRITE, written=1), (Command(words),))


def ipset() -> Subject:
    """Return ipset as kube-proxy calls it: a process for each set and for each entry (IPVS-7.5)."""
    return Subject("ipset", Tool.IPSET, ("ipset", "--version"), "ipset", (Command(_CREATE),), _ipset_steps)


# --- ip_vs -------------------------------------------------------------------------------------------------------------


def _servers(size: int, endpoints: int, *, deleted: bool = False) -> tuple[int, str]:
    """Return how many virtual and real servers a document of ipvsadm makes, and the document."""
    lines = []
    for number in range(size):
        place = f"-t {_address(number)}:80"
        lines.append(f"-D {place}" if deleted else f"-A {place} -s rr")
        for each in range(number * endpoints, (number + 1) * endpoints) if not deleted else ():
            lines.append(f"-a {place} -r 10.{each // 65536 % 256}.{each // 256 % 256}.{each % 256}:8080 -m -w 1")
    return size * (1 + endpoints), "".join(f"{line}\n" for line in lines)


def _ipvsadm_steps(syncs: Syncs) -> Iterator[Step]:
    size = syncs.size
    made, text = _servers(*size)
    restore, save = ("ipvsadm", "-R"), ("ipvsadm", "-S", "-n")
    yield Step("first", Call(Tool.IP_VS, Act.WRITE, written=made, held=made), (Command(restore, text),))
    yield Step("save", Call(Tool.IP_VS, Act.READ, held=made), (Command(save),))
    gone = max(1, size.services // 10)
    count, text = _servers(gone, size.endpoints, deleted=True)
    yield Step("deletion", Call(Tool.IP_VS, Act.WRITE, written=count, held=made - count), (Command(restore, text),))


def ipvsadm() -> Subject:
    """Return ipvsadm, which asks ip_vs over the same netlink that kube-proxy uses itself, from one process."""
    trial = Command(("ipvsadm", "-L", "-n"))
    return Subject("ip_vs", Tool.IP_VS, ("ipvsadm", "--version"), "ipvsadm", (trial,), _ipvsadm_steps)


def subjects() -> tuple[Subject, ...]:
    """Return all that may be measured."""
    return iptables(Variant.NFT), iptables(Variant.LEGACY), nft(), ipset(), ipvsadm()
