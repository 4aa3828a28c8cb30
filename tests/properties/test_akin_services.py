"""Services that are akin answer for each other in surveys: the rows are those of asking about each by itself."""

import pytest
from mixed_clusters import mixed

from kpsim.config import Mode
from kpsim.explore import Cluster, load
from kpsim.surveys import survey
from kpsim.surveys.akin import Kinship


def rows(cluster: Cluster, vary: str, monkeypatch: pytest.MonkeyPatch, *, singly: bool) -> list[object]:
    monkeypatch.setattr("kpsim.surveys.asking.is_worth_grouping", lambda *_: not singly)
    return [row.to_json() for row in survey(cluster, vary=vary, clients=["pod", "node", "external"]).rows]


@pytest.mark.parametrize(
    ("seed", "mode", "vary", "dual"),
    [
        *((seed, mode, "", False) for seed in range(2) for mode in Mode),
        (3, Mode.IPTABLES, "externalTrafficPolicy", False),
        (4, Mode.NFTABLES, "trafficDistribution", False),
        (6, Mode.NFTABLES, "", True),
        (7, Mode.IPVS, "", True),
    ],
)
def test_rows_of_akin_services_are_those_of_each(
    seed: int, mode: Mode, vary: str, dual: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = load(text=mixed(seed, 5, dual=dual, endpoints=4), mode=mode)
    assert rows(cluster, vary, monkeypatch, singly=False) == rows(cluster, vary, monkeypatch, singly=True)


@pytest.mark.parametrize("mode", Mode)
def test_akin_services_are_asked_about_once(mode: Mode, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[bool] = []
    answer = Kinship.answer

    def counted(*arguments: object) -> object:
        found = answer(*arguments)  # type: ignore[arg-type]
        told.append(found is not None)
        return found

    monkeypatch.setattr(Kinship, "answer", counted)
    survey(load(text=mixed(2, 10), mode=mode))
    assert sum(told) > len(told) / 4
