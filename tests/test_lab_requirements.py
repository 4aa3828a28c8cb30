"""What the lab needs: what is missing is named with the command that helps, and only a new namespace is used."""

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from kpsim.addresses import Family
from kpsim.errors import InputError
from kpsim.lab import packages, requirements
from kpsim.lab.calls import LabError
from kpsim.lab.namespace import Namespace
from kpsim.lab.requirements import Obstacle, obstacles, require
from kpsim.lab.tools.ipset import IpsetTool
from kpsim.lab.tools.nft import NftTool
from kpsim.lab.tools.variants import Variant
from kpsim.maps import Map
from kpsim.ruleset import Ruleset, Space, Table, TableKey, make_ipset

ALL_CAPABILITIES = 0x1FF_FFFF_FFFF
NFT_TOOLS = ["iptables-nft-restore", "iptables-nft-save", "ip6tables-nft-restore", "ip6tables-nft-save"]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Machine":
    return Machine(tmp_path, monkeypatch)


class Machine:
    """One that has nothing, until it is given it."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self._folder, self._patch = folder, patch
        self.tools = folder / "bin"
        self.tools.mkdir()
        patch.setenv("PATH", str(self.tools))
        self.be_root()
        self.be_distribution("ID=plan9")

    def be_root(self, capabilities: int = ALL_CAPABILITIES) -> None:
        self._patch.setattr(os, "geteuid", lambda: 0)
        status = self._folder / "status"
        status.write_text(f"Name:\tpython\nCapEff:\t{capabilities:016x}\nCapBnd:\t{ALL_CAPABILITIES:016x}\n")
        self._patch.setattr(requirements, "_STATUS", status)

    def be_nobody(self) -> None:
        self._patch.setattr(os, "geteuid", lambda: 65534)

    def be_distribution(self, release: str) -> None:
        file = self._folder / "os-release"
        file.write_text(release)
        self._patch.setattr(packages, "_OS_RELEASE", file)

    def install(self, tools: Iterable[str], script: str = "") -> None:
        for tool in tools:
            (self.tools / tool).write_text(f"#!/bin/sh\n{script}\n")
            (self.tools / tool).chmod(0o755)


def test_another_system_is_all_there_is_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    assert obstacles(Variant.NFT) == [Obstacle("needs Linux: this is Darwin")]


def test_without_root_it_says_sudo(machine: Machine) -> None:
    machine.be_nobody()
    machine.install(["ip", "bridge", *NFT_TOOLS])
    [obstacle] = obstacles(Variant.NFT)
    assert "root" in obstacle.reason
    assert "sudo" in obstacle.reason


@pytest.mark.parametrize(("bit", "name"), [(12, "CAP_NET_ADMIN"), (13, "CAP_NET_RAW"), (21, "CAP_SYS_ADMIN")])
def test_root_of_a_container_may_lack_a_capability(machine: Machine, bit: int, name: str) -> None:
    machine.be_root(ALL_CAPABILITIES & ~(1 << bit))
    machine.install(["ip", "bridge", *NFT_TOOLS])
    [obstacle] = obstacles(Variant.NFT)
    assert f"root lacks {name} here" in obstacle.reason


@pytest.mark.parametrize(
    ("release", "variant", "remedy"),
    [
        ("ID=debian", Variant.NFT, "apt-get install -y iproute2 iptables"),
        ('NAME="Ubuntu"\nID=ubuntu\nID_LIKE=debian\n', Variant.LEGACY, "apt-get install -y iproute2 iptables"),
        ("ID=fedora", Variant.NFT, "dnf install -y iproute iptables-nft"),
        ('ID="rocky"\nID_LIKE="rhel centos fedora"', Variant.LEGACY, "dnf install -y iproute iptables-legacy"),
        ("ID=alpine", Variant.LEGACY, "apk add iproute2 iptables-legacy"),
        ("ID=nixos", Variant.NFT, None),
        ("", Variant.NFT, None),
    ],
)
def test_missing_tools_come_with_the_distributions_command(
    machine: Machine, release: str, variant: Variant, remedy: str | None
) -> None:
    machine.be_distribution(release)
    [obstacle] = obstacles(variant)
    tools = [name.replace("nft", variant.value) for name in NFT_TOOLS]
    assert obstacle == Obstacle(f"not found in PATH: ip, bridge, {', '.join(tools)}", remedy)


def test_only_what_is_missing_is_named(machine: Machine) -> None:
    machine.be_distribution("ID=debian")
    machine.install(["ip", "bridge", "iptables-nft-restore", "iptables-nft-save"])
    missing = "not found in PATH: ip6tables-nft-restore, ip6tables-nft-save"
    assert obstacles(Variant.NFT) == [Obstacle(missing, "apt-get install -y iptables")]
    machine.install(NFT_TOOLS)
    (machine.tools / "bridge").unlink()
    assert obstacles(Variant.NFT) == [Obstacle("not found in PATH: bridge", "apt-get install -y iproute2")]


def test_a_family_that_is_not_asked_for_needs_no_tools(machine: Machine) -> None:
    [obstacle] = obstacles(Variant.NFT, [Family.IPV4])
    assert "iptables-nft-restore" in obstacle.reason
    assert "ip6tables" not in obstacle.reason


def test_the_machine_need_not_say_what_it_is(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "_OS_RELEASE", machine.tools / "missing")
    [obstacle] = obstacles(Variant.NFT)
    assert obstacle.remedy is None


def test_everything_is_required_at_once(machine: Machine) -> None:
    machine.be_nobody()
    machine.be_distribution("ID=debian")
    with pytest.raises(InputError) as refused:
        require(Variant.LEGACY)
    assert refused.value.exit_code == 2
    rights, tools = str(refused.value).splitlines()
    assert rights == "packets cannot be sent through Linux here: needs root, for network namespaces: run it with sudo"
    assert tools.startswith(
        "packets cannot be sent through Linux here: not found in PATH: ip, bridge, iptables-legacy-"
    )
    assert tools.endswith("(try: apt-get install -y iproute2 iptables)")


def test_a_tool_that_only_some_rules_need_is_named_when_they_are_loaded(machine: Machine) -> None:
    """Nothing is measured, so the exit code is 3."""
    nowhere: Any = None
    tables = Ruleset.of(Family.IPV4, Table(TableKey(Space.IP, "t"), Map()))
    for release, remedy in (("ID=fedora", "try: dnf install -y {0}"), ("ID=nixos", "package {0}")):
        machine.be_distribution(release)
        with pytest.raises(LabError) as refused:
            NftTool(nowhere).load(tables)
        assert refused.value.exit_code == 3
        told = f"not found in PATH: nft, which loads tables of nftables ({remedy.format('nftables')})"
        assert str(refused.value) == told
        with pytest.raises(
            LabError, match=re.escape(f"ipset, which loads the sets that rules look up ({remedy.format('ipset')})")
        ):
            IpsetTool(nowhere).load({"s": make_ipset("s", "hash:ip", Family.IPV4)})


# --- the kernel --------------------------------------------------------------------------------------------------------------


@pytest.mark.kernel
def test_nothing_is_missing_where_kernel_tests_run_and_nothing_is_left_there() -> None:
    namespace = Namespace()
    try:
        with namespace.entered():
            assert obstacles(Variant.NFT) == []
            require(Variant.NFT)
        assert namespace.run(["iptables-nft-save"]) == ""
        assert namespace.run(["ip", "-oneline", "link"]).count("\n") == 1  # lo
    finally:
        namespace.close()


@pytest.mark.kernel
def test_legacy_tables_are_there_or_missed() -> None:
    """Kernels may be built without them, machines may come without the tools."""
    found = " ".join(map(str, obstacles(Variant.LEGACY, [Family.IPV4])))
    if shutil.which("iptables-legacy-restore") is None:
        assert "iptables-legacy-restore" in found
        return
    listing = ["unshare", "--net", "iptables-legacy", "-t", "nat", "-L"]
    missing = subprocess.run(listing, capture_output=True).returncode != 0
    assert ("the kernel has no nat table for iptables-legacy" in found) is missing


@pytest.mark.kernel
def test_what_the_kernel_cannot_do_is_named(machine: Machine) -> None:
    """A tool complains on its behalf."""
    machine.install(["ip", "bridge", *(name.replace("nft", "legacy") for name in NFT_TOOLS)])
    machine.install(
        ["iptables-legacy-restore"],
        'while read -r line; do case "$line" in "*nat") echo "cannot initialize table" >&2; exit 3;;'
        ' *"-j REJECT") echo "No chain/target/match by that name" >&2; exit 1;; esac; done',
    )
    found = obstacles(Variant.LEGACY)
    assert [obstacle.remedy for obstacle in found] == ["modprobe iptable_nat", None]
    assert "no nat table for iptables-legacy" in found[0].reason
    assert found[0].reason.endswith("cannot initialize table")
    assert "iptables-legacy cannot do -j REJECT" in found[1].reason
    machine.install(["ip"], 'echo "Unknown device type." >&2; exit 2')
    assert [obstacle.remedy for obstacle in obstacles(Variant.LEGACY)][:2] == ["modprobe veth", "modprobe bridge"]
