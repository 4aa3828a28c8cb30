"""Named counters are made, found and read as the nfacct tool does it. A kernel without them is recognised."""

import re
import shutil
import socket
import subprocess
from collections.abc import Iterator

import pytest

from kpsim.addresses import Family
from kpsim.lab.accounting import Counted, LinuxAccounting
from kpsim.lab.calls import LabError
from kpsim.lab.namespace import Namespace
from kpsim.lab.netlink import attribute, attributes
from kpsim.lab.tools.iptables import accounting_obstacle
from kpsim.lab.tools.variants import Variant

NAMES = ("ct_state_invalid_dropped_pkts", "localhost_nps_accepted_pkts")  # kube-proxy's (I-1)


@pytest.fixture
def namespace(kernel: None) -> Iterator[Namespace]:
    made = Namespace()
    yield made
    made.close()


def test_attributes_are_found_again() -> None:
    data = attribute(1, b"name\0") + attribute(0x8002, attribute(3, b"")) + attribute(0x4003, b"\0\0\0\7")
    assert len(data) % 4 == 0
    assert attributes(data) == {1: b"name\0", 2: attribute(3, b""), 3: b"\0\0\0\7"}


@pytest.mark.kernel
def test_counters_are_those_of_the_tool(namespace: Namespace) -> None:
    """Not every kernel has them: then the tool cannot make one either."""
    tool = shutil.which("nfacct")
    assert tool, "needs nfacct"
    has_counters = subprocess.run(["unshare", "--net", tool, "add", "probe"], capture_output=True).returncode == 0
    if not has_counters:
        assert accounting_obstacle(Variant.NFT) is not None
        return
    accounting = LinuxAccounting(namespace)
    try:
        assert accounting.read(NAMES[0]) is None
        for name in NAMES:
            accounting.create(name)
        namespace.run([tool, "add", "by-the-tool"])
        assert [accounting.read(name) for name in (*NAMES, "by-the-tool", "no-such")] == [Counted(0, 0)] * 3 + [None]
        if accounting_obstacle(Variant.NFT, [Family.IPV4]) is None:
            namespace.run(["ip", "link", "set", "lo", "up"])
            rule = f"-A INPUT -p udp -m nfacct --nfacct-name {NAMES[1]} -j DROP"
            namespace.run(["iptables-nft-restore"], stdin=f"*filter\n{rule}\nCOMMIT\n")
            with namespace.socket(socket.AF_INET, socket.SOCK_DGRAM, 0) as sender:
                for _ in range(3):
                    sender.sendto(b"12345678", ("127.0.0.1", 9))
            assert accounting.read(NAMES[1]) == Counted(3, 3 * (20 + 8 + 8))
        accounting.create(NAMES[1])  # goes on counting
        listed = re.findall(r"pkts = (\d+), bytes = (\d+) } = ([\w-]+);", namespace.run([tool, "list"]))
        assert sorted(name for *_, name in listed) == sorted((*NAMES, "by-the-tool"))
        assert {name: accounting.read(name) for *_, name in listed} == {
            name: Counted(int(packets), int(size)) for packets, size, name in listed
        }
        with pytest.raises(LabError, match=r"Invalid argument|out of range"):
            accounting.create("longer-than-the-31-bytes-that-a-name-may-have")
    finally:
        accounting.close()


@pytest.mark.kernel
@pytest.mark.parametrize("variant", Variant)
def test_whether_rules_can_count_is_what_loading_one_says(namespace: Namespace, variant: Variant) -> None:
    command = variant.command(Family.IPV4)
    assert shutil.which(command), f"needs {command}"
    script = f"nfacct add it && {command} -A INPUT -m nfacct --nfacct-name it"
    loads = subprocess.run(["unshare", "--net", "sh", "-c", script], capture_output=True).returncode == 0
    assert (accounting_obstacle(variant, [Family.IPV4]) is None) is loads


@pytest.mark.kernel
def test_a_rule_without_its_counter_does_not_load(namespace: Namespace) -> None:
    """K-9.3"""
    with pytest.raises(LabError):
        namespace.run(["iptables-nft", "-A", "INPUT", "-m", "nfacct", "--nfacct-name", "no-such"])
