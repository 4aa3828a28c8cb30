"""The assessment of a change of mode as JSON."""

from typing import Any

from kpsim.migration.assessment import Migration
from kpsim.migration.differences import Group, Row


def migration_record(migration: Migration) -> dict[str, Any]:
    """The keys of ``kpsim migrate --format json``."""
    return {
        "from": str(migration.source),
        "to": str(migration.target),
        "breaks": migration.breaks,
        "classes": migration.classes,
        "differences": [_group(group) for group in migration.groups],
        "setAside": migration.set_aside,
        "remarks": [
            {"title": remark.title, "words": remark.words, "see": remark.see, "concerns": list(names)}
            for remark, names in migration.remarks
        ],
        "nodes": [
            {
                "name": node.name,
                "verdict": node.severity.value,
                "findings": [
                    {
                        "subject": finding.subject.value,
                        "value": finding.value,
                        "verdict": finding.severity.value,
                        "words": finding.words,
                        "see": finding.see,
                    }
                    for finding in node.findings
                ],
            }
            for node in migration.nodes
        ],
        "programs": [
            {
                "node": found.node,
                "family": found.family.label,
                "program": found.program,
                "what": found.what,
                "words": found.words,
                "see": found.see,
                "rules": list(found.rules),
                "count": found.count,
            }
            for found in migration.neighbours
        ],
        "sizes": {name: getattr(migration.sizes, name) for name in ("services", "ports", "endpoints")},
        "costs": {
            str(mode): {
                "rules": cost.counted.rules,
                "chains": cost.counted.chains,
                "elements": cost.counted.elements,
                "linesOfFirstSync": cost.counted.first_sync,
                "linesOfOneChange": cost.counted.one_change,
                "virtualServers": cost.counted.virtual_servers,
                "realServers": cost.counted.real_servers,
                "firstSyncSeconds": _rounded(cost.figures.start_s(migration.sizes.services)),
                "firstPacketMicroseconds": {
                    tool: round(us, 1) for tool, us in cost.figures.first_packet_us(migration.sizes.ports).items()
                },
            }
            for mode, cost in zip((migration.source, migration.target), migration.costs, strict=True)
        },
        "configuration": {
            "document": migration.configuration.document,
            "settings": [
                {"path": each.path, "value": each.value, "words": each.words, "see": each.see}
                for each in migration.configuration.settings
            ],
        },
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def _group(group: Group) -> dict[str, Any]:
    return {
        "why": group.why,
        "see": group.see,
        "effect": group.effect.value,
        "rows": [_row(row) for row in group.rows],
    }


def _row(row: Row) -> dict[str, Any]:
    return {
        "effect": row.effect.value,
        "service": row.service,
        "from": [
            {"sender": each.sender, "src": list(each.sources), "allBut": list(each.all_but)} for each in row.clients
        ],
        "nodes": list(row.nodes),
        "dst": list(row.targets),
        "packets": [{"protocol": protocol, "dport": [list(each) for each in ports]} for protocol, ports in row.packets],
        "today": row.today,
        "then": row.then,
        "preventedByConfiguration": row.prevented,
    }
