"""The restore document of one sync: which chains it refills, which it deletes, and its text (I-4).

The text is rendered when it is read. The model's kernel takes the document's chains as values, so only a person, a
comparison or a real iptables-restore needs the text. Each service port's part is rendered once and kept with the port's
block.
"""

from kpsim.addresses import Family
from kpsim.backends.iptables import names
from kpsim.backends.iptables.service_rules import Placed, ServiceRules, rules_text
from kpsim.backends.iptables.static_rules import StaticRules
from kpsim.backends.iptables.tables import Blocks, Pick, RestoreDocument, SharedChain, TableUpdate
from kpsim.dialects.iptables import Style, empty_table, render_ruleset, table_key
from kpsim.kubeproxy.trackers import ServicePortName
from kpsim.ruleset import Chain, Rule, Ruleset, Table


def restore_document(
    family: Family,
    static: StaticRules,
    blocks: Blocks,
    written: frozenset[ServicePortName],
    stale: tuple[str, ...],
    base: Blocks | None,
) -> RestoreDocument:
    """The document for these blocks.

    ``written`` are the service ports whose own chains the document refills, and those that are gone. ``stale`` are the
    chains that it deletes. ``base`` are the blocks of the document before; with None, every jump is checked.
    """

    def shared(name: str, pick: Pick, last: tuple[Placed, ...] = ()) -> Chain:
        return SharedChain(name, blocks, _of_chain(name, last), pick, base, written)

    filter_chains = [
        shared(names.SERVICES, _filter_rules),
        shared(names.EXTERNAL_SERVICES, _filter_rules),
        chain_of(names.FORWARD, static.last_filter),
        shared(names.NODE_PORTS, _filter_rules),
        shared(names.PROXY_FIREWALL, _filter_rules),
        *([chain_of(names.FIREWALL, static.first_filter)] if static.first_filter else []),
    ]
    nat_chains = [
        shared(names.SERVICES, _dispatch_rules, static.last_nat),
        shared(names.NODE_PORTS, _dispatch_rules),
        chain_of(names.POSTROUTING, static.first_nat),
        chain_of(names.MARK_MASQ, static.first_nat),
    ]
    ports_written = sorted(name for name in written if name in blocks)
    own_chains = [chain for name in ports_written for chain in blocks[name].chains]

    def render() -> str:
        everybody = [(name, blocks[name]) for name in sorted(blocks)]
        parts = ["*filter\n", *map(chain_line, (chain.name for chain in filter_chains))]
        parts += [rules_text(static.first_filter, family), *(rules.filter_text for _, rules in everybody)]
        parts += [rules_text(static.last_filter, family), "COMMIT\n*nat\n"]
        parts += map(chain_line, (chain.name for chain in nat_chains))
        parts += [blocks[name].chain_lines_text for name in ports_written]
        parts += [*map(chain_line, stale), rules_text(static.first_nat, family)]
        for name, rules in everybody:
            parts += (rules.dispatch_text, rules.chain_rules_text) if name in written else (rules.dispatch_text,)
        parts += [*(f"-X {name}\n" for name in stale), rules_text(static.last_nat, family), "COMMIT\n"]
        return "".join(parts)

    updates = (TableUpdate("filter", tuple(filter_chains)), TableUpdate("nat", (*nat_chains, *own_chains), stale))
    return RestoreDocument(updates, render)


def chain_line(name: str) -> str:
    """The line of a document that creates and flushes a chain."""
    return f":{name} - [0:0]\n"


def _filter_rules(rules: ServiceRules) -> tuple[Placed, ...]:
    return rules.filter


def _dispatch_rules(rules: ServiceRules) -> tuple[Placed, ...]:
    return rules.dispatch


def _of_chain(name: str, placed: tuple[Placed, ...]) -> tuple[Rule, ...]:
    return tuple(rule for chain, rule in placed if chain == name)


def chain_of(name: str, placed: tuple[Placed, ...]) -> Chain:
    """The chain with those of the rules that belong into it."""
    return Chain(name, _of_chain(name, placed))


def kube_proxy_text(ruleset: Ruleset) -> str:
    """The tables filter and nat in kube-proxy's own text, as replay outputs show them, without the canaries."""
    shown = []
    for name in ("filter", "nat"):
        table = ruleset.tables.get(table_key(ruleset.family, name), empty_table(ruleset.family, name))
        chains = table.chains.delete(names.CANARY) if names.CANARY in table.chains else table.chains
        shown.append(Table(table.key, chains))
    return render_ruleset(Ruleset.of(ruleset.family, *shown), Style.KUBE_PROXY)
