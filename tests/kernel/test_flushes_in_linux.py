"""What commands leave of kube-proxy's rules, and what its next sync does to that: in the model as with the tools themselves (CP-13)."""

import fcntl
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from labs import tables_of
from nftables_tables import nft_rig
from proxiers import NODE_IP, Rig, endpoint_slice, make_settings, service

from kpsim.config import Host, Mode
from kpsim.dialects.iptables import Style, render_ruleset
from kpsim.lab.calls import ToolFailed
from kpsim.lab.namespace import Namespace
from kpsim.programmed import Programmed
from kpsim.proxier import SyncResult
from kpsim.scenario.fault_schema import FlushRules
from kpsim.simulation.flushing import flush_of

pytestmark = pytest.mark.kernel
NFT_RESTORE = ("iptables-nft-restore", "-w", "5", "--noflush", "--counters")


def filled(rig: Rig) -> Rig:
    rig.apply(service(), service("shop/other", cluster_ip="172.30.10.2"))
    rig.apply(endpoint_slice(), endpoint_slice("shop/other", ["10.180.0.9"]))
    assert rig.sync().success
    return rig


def flush(held: Programmed, **event: object) -> Programmed:
    return flush_of(FlushRules.model_validate_json(json.dumps(event)))(held)


def shown(text: str) -> dict[str, list[str]]:
    """What iptables-save prints, without tables that have no rules and no chains of kube-proxy's."""
    return {name: lines for name, lines in tables_of(text).items() if "KUBE-" in str(lines) or "-A " in str(lines)}


def attempt(run: Callable[[], object]) -> bool:
    try:
        run()
    except ToolFailed:
        return False
    return True


@pytest.mark.parametrize("keep_chains", [False, True])
@pytest.mark.parametrize("tables", [("nat",), ("filter", "mangle"), ("mangle", "nat", "filter")])
def test_iptables_flushes(namespace: Namespace, tables: tuple[str, ...], keep_chains: bool) -> None:
    host = Host(node_ips=(NODE_IP,), nfacct=False)  # the namespace has no counters
    rig = filled(Rig(make_settings(host=host, mode=Mode.IPTABLES)))
    before = rig.proxier.held
    namespace.run(NFT_RESTORE, stdin=render_ruleset(before.ruleset, Style.SAVE))
    for table in tables:
        for command in ("-F",) if keep_chains else ("-F", "-X"):
            namespace.run(("iptables-nft", "-t", table, command))
    rig.proxier.held = flush(before, tool="iptables", tables=tables, keepChains=keep_chains)
    saved = namespace.run(("iptables-nft-save",))
    assert shown(saved) == shown(render_ruleset(rig.proxier.held.ruleset, Style.SAVE))
    # the next partial sync: both take it, or both take filter and refuse nat (K-9.3)
    rig.apply(endpoint_slice(endpoints=["10.180.0.4"], version=2))
    result = rig.sync()
    (document,) = result.transaction.documents
    took = attempt(lambda: namespace.run(NFT_RESTORE, stdin=document()))
    assert took is result.success is (keep_chains or "nat" not in tables)
    saved = namespace.run(("iptables-nft-save",))
    assert shown(saved) == shown(render_ruleset(result.held.ruleset, Style.SAVE))


def loaded(namespace: Namespace, result: SyncResult) -> None:
    for document in result.transaction.documents:
        namespace.run(("nft", "-f", "-"), stdin=document())


@pytest.mark.parametrize(("command", "event"), [
    ("flush ruleset", {"tool": "nft"}),
    ("delete table ip kube-proxy", {"tool": "nft", "tables": ("kube-proxy",)}),
    ("flush table ip kube-proxy", {"tool": "nft", "tables": ("kube-proxy",), "keepChains": True}),
])  # fmt: skip
def test_nft_flushes(namespace: Namespace, command: str, event: dict[str, object]) -> None:
    rig = nft_rig()
    rig.apply(service(), service("shop/other", cluster_ip="172.30.10.2"))
    rig.apply(endpoint_slice(), endpoint_slice("shop/other", ["10.180.0.9"]))
    loaded(namespace, rig.sync())
    namespace.run(("nft", command))
    rig.proxier.held = flush(rig.proxier.held, **event)
    assert attempt(lambda: loaded(namespace, rig.sync()))  # nothing to write: nobody notices (NFT-8.7)
    rig.apply(endpoint_slice(endpoints=["10.180.0.4"], version=2))
    result = rig.sync()
    assert attempt(lambda: loaded(namespace, result)) is result.success is ("keepChains" in event)
    again = rig.sync()
    assert again.full is not result.success
    assert again.success and attempt(lambda: loaded(namespace, again))


def test_stale_chains_of_a_table_that_is_gone_cannot_be_deleted(namespace: Namespace) -> None:  # NFT-8.4
    rig = nft_rig()
    rig.apply(service(), endpoint_slice())
    loaded(namespace, rig.sync())
    rig.delete(endpoint_slice())
    loaded(namespace, rig.sync())
    namespace.run(("nft", "flush", "ruleset"))
    rig.proxier.held = flush(rig.proxier.held, tool="nft")
    result = rig.sync(2)
    deletion, main = result.transaction.documents
    assert not attempt(lambda: namespace.run(("nft", "-f", "-"), stdin=deletion()))
    assert result.full and result.success and attempt(lambda: namespace.run(("nft", "-f", "-"), stdin=main()))


def test_sets_that_rules_name_can_only_be_emptied(namespace: Namespace) -> None:
    namespace.run(("ipset", "create", "S", "hash:ip"))
    namespace.run(("ipset", "add", "S", "192.0.2.1"))
    namespace.run(("iptables-nft", "-A", "INPUT", "-m", "set", "--match-set", "S", "src", "-j", "DROP"))
    assert not attempt(lambda: namespace.run(("ipset", "destroy")))
    namespace.run(("ipset", "flush"))
    assert "192.0.2.1" not in namespace.run(("ipset", "save"))


@pytest.mark.parametrize(("variant", "waits"), [("legacy", True), ("nft", False)])
def test_only_legacy_tools_wait_for_the_lock(
    namespace: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variant: str, waits: bool
) -> None:
    lock = tmp_path / "lock"
    monkeypatch.setenv("XTABLES_LOCKFILE", str(lock))
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        begun = time.monotonic()  # noqa: TID251 - how long the tool waits
        took = attempt(lambda: namespace.run((f"iptables-{variant}", "-w", "1", "-N", "MINE")))
        waited = time.monotonic() - begun  # noqa: TID251
    assert took is not waits
    assert (waited >= 1) is waits
