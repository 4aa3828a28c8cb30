"""A verification leaves nothing behind, however it ends, and never touches the network that it is called in.

The tests call it in a namespace that plays the host, with interfaces, rules of both variants and counters of its own.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from labs import rules_of, shop_subject, shot

from kpsim.addresses import Family
from kpsim.lab import node
from kpsim.lab.calls import LabError
from kpsim.lab.namespace import Namespace
from kpsim.lab.node import LabNode
from kpsim.lab.tools.variants import Variant
from kpsim.packetpath.routing import Routing
from kpsim.tracing.probes import Probe
from kpsim.tracing.site import Sender
from kpsim.verify.twin import Twin
from kpsim.verify.verification import Verifier

pytestmark = pytest.mark.kernel

_TESTS = Path(__file__).parents[1]
_PATIENCE_S = 20
_CHILD = """
import sys
sys.path[:0] = {path!r}
from labs import shop_subject, shot
from kpsim.addresses import Family
from kpsim.lab.tools.variants import Variant
from kpsim.tracing.probes import Probe
from kpsim.tracing.site import Sender
from kpsim.verify.verification import Verifier

family, variant, rounds = Family({family}), Variant({variant!r}), {rounds}
subject = shop_subject(family)
probe = Probe("p", "node-1", Sender.EXTERNAL, shot(family, "client", "service").packet)
with Verifier(variant) as verifier:
    while rounds:
        assert not verifier.verify(subject, [probe]).disagreements
        print("ready", flush=True)
        rounds -= 1
"""


@pytest.fixture
def host(kernel: None) -> Iterator[Namespace]:
    made = Namespace()
    try:
        made.ip(["link add host0 type veth peer name host1", "addr add 192.0.2.1/24 dev host0", "link set host0 up"])
        for family in Family:
            for variant in Variant:
                run = [variant.command(family), "--wait"]
                made.run([*run, "-t", "nat", "-A", "PREROUTING", "-p", "tcp", "--dport", "1", "-j", "ACCEPT"])
                made.run([*run, "-A", "INPUT", "-m", "comment", "--comment", f"{variant}", "-j", "ACCEPT"])
        yield made
    finally:
        made.close()


def state_of(host: Namespace) -> dict[str, str]:
    """All that a verification could have touched. Rules with their counters: no packet comes by either."""
    commands = [["ip", "-json", kind] for kind in ("link", "addr", "route", "neigh", "rule")]
    commands += [["ip", "-6", "-json", "route"], ["nft", "list", "ruleset"], ["sysctl", "-a", "-r", "^net[.]"]]
    commands += [[variant.tool(family, "save"), "-c"] for family in Family for variant in Variant]
    seen = {" ".join(command): host.run(command) for command in commands}
    # nf_conntrack_max is one for all namespaces, and a test that fills a connection table sets it meanwhile
    passing = re.compile(r"^(#|net\.netfilter\.nf_conntrack_max ).*\n", re.MULTILINE)
    return {command: passing.sub("", text) for command, text in seen.items()}


def left_in_session(leader: int) -> list[str]:
    """Processes of a session: if there are none, no process holds a namespace that one of them made."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except OSError:
            continue
        state, _, _, session = text.rpartition(")")[2].split()[:4]
        if int(session) == leader and state != "Z":
            found.append(text)
    return found


def named_namespaces() -> list[str]:
    return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if " nsfs " in line]


def start(host: Namespace, family: Family, variant: Variant, rounds: int) -> subprocess.Popen[str]:
    path = [str(_TESTS.parent), str(_TESTS)]
    code = _CHILD.format(path=path, family=int(family), variant=str(variant), rounds=rounds)
    with host.entered():
        return subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )  # fmt: skip


def await_end(process: subprocess.Popen[str]) -> str:
    _, errors = process.communicate(timeout=_PATIENCE_S)
    deadline = _PATIENCE_S * 50
    while left_in_session(process.pid) and deadline:
        time.sleep(0.02)
        deadline -= 1
    assert left_in_session(process.pid) == []
    return errors


@pytest.mark.parametrize(
    ("how", "family", "variant"),
    [
        (None, Family.IPV4, Variant.NFT), (None, Family.IPV6, Variant.LEGACY),
        (signal.SIGINT, Family.IPV4, Variant.LEGACY), (signal.SIGTERM, Family.IPV6, Variant.NFT),
        (signal.SIGKILL, Family.IPV4, Variant.NFT), (signal.SIGKILL, Family.IPV6, Variant.LEGACY),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)  # fmt: skip
def test_a_process_leaves_nothing(
    host: Namespace, how: signal.Signals | None, family: Family, variant: Variant
) -> None:
    before, mounts = state_of(host), named_namespaces()
    process = start(host, family, variant, 2 if how is None else 1_000_000)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", process.communicate()
    if how is not None:
        process.send_signal(how)
    errors = await_end(process)
    expected = {None: 0, signal.SIGINT: -signal.SIGINT}.get(how, -(how or 0))
    assert process.returncode == expected, errors
    assert state_of(host) == before
    assert named_namespaces() == mounts


# --- in this process ---------------------------------------------------------------------------------------------------------


def held() -> list[str]:
    """What this process has open, without the numbers of pipes and the like that others hold."""
    found = []
    for entry in os.scandir("/proc/self/fd"):
        try:
            found.append(re.sub(r"\[\d+\]", "", str(Path(entry.path).readlink())))
        except OSError:  # the directory itself, by now
            continue
    return sorted(found)


def here() -> str:
    return str(Path("/proc/thread-self/ns/net").readlink())


@pytest.fixture
def nothing_left(kernel: None) -> Iterator[None]:
    """This thread is where it was, and nothing is open that was not."""
    before, place = held(), here()
    yield
    assert held() == before
    assert here() == place


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("variant", Variant)
@pytest.mark.parametrize("family", Family, ids=lambda family: family.label)
def test_close_closes_all(family: Family, variant: Variant) -> None:
    subject = shop_subject(family)
    probe = Probe("p", "node-1", Sender.EXTERNAL, shot(family, "client", "service").packet)
    with Verifier(variant) as verifier:
        assert verifier.verify(subject, [probe]).probes == 1


@pytest.mark.usefixtures("nothing_left")
def test_an_exception_inside_closes_all() -> None:
    with pytest.raises(RuntimeError, match="in the middle"), Verifier() as verifier:
        verifier.twin(shop_subject(Family.IPV4))
        with verifier.twin(shop_subject(Family.IPV4)).linux.namespace.entered():
            raise RuntimeError("in the middle")


@pytest.mark.usefixtures("nothing_left")
def test_rules_that_do_not_load_close_all() -> None:
    subject = shop_subject(Family.IPV4)
    with Verifier() as verifier:
        twin = verifier.twin(subject)
        with pytest.raises(LabError, match="iptables-nft-restore"):
            twin.linux.iptables.load_text("*filter\n-A INPUT -j NOBODY\nCOMMIT\n")
        assert twin.load(rules_of(subject)) is None  # goes on


@pytest.mark.usefixtures("nothing_left")
def test_a_lab_that_cannot_be_built_closes_all(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = shop_subject(Family.IPV4).site.machine("node-1")
    monkeypatch.setattr(node, "_written", lambda _: "nowhere")
    with pytest.raises(LabError, match="nowhere"):
        LabNode(machine, Family.IPV4)


@pytest.mark.usefixtures("nothing_left")
def test_a_node_without_a_way_in_closes_all() -> None:
    """No canary can fly there."""
    machine = shop_subject(Family.IPV4).site.machine("node-1")
    routing = machine.routing.without("eth0")
    with pytest.raises(LabError, match="no link of the node is up"):
        Twin(replace(machine, routing=Routing(routing.interfaces.values())), Family.IPV4)
