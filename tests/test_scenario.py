"""Scenario files: what they may contain, what is refused and how, and what the command line may change."""

import json
from pathlib import Path

import jsonschema
import pytest

from kpsim.config import Mode
from kpsim.errors import InputError
from kpsim.scenario import Scenario, load_scenario, parse_scenario, scenario_json_schema
from kpsim.scenario.document import override, read_document
from kpsim.scenario.event_schema import ActionKind
from kpsim.scenario.nodes import cluster_nodes
from kpsim.scenario.traffic_schema import Arrivals, Origin, Via
from kpsim.scenarios import scenario_names, scenario_path
from kpsim.units import MILLISECOND_NS, SECOND_NS

HEAD = """\
apiVersion: kpsim.dev/v1alpha1
kind: Scenario
metadata: {name: test}
duration: 10s
nodes: {count: 2, zones: [a, b]}
workloads:
  - {name: web, replicas: 2, ports: [{containerPort: 8080}]}
objects:
  - apiVersion: v1
    kind: Service
    metadata: {name: web}
    spec: {clusterIP: 172.30.0.10, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
"""


def load(text: str = "", *, head: str = HEAD, **given: list[str]) -> Scenario:
    return parse_scenario(head + text, "test.yaml", **given)


def refused(text: str = "", *, head: str = HEAD, **given: list[str]) -> list[str]:
    with pytest.raises(InputError) as caught:
        load(text, head=head, **given)
    return [str(problem) for problem in caught.value.problems]


# ------------------------------------------------------------------------------------------------------------- reading


def test_defaults_are_filled_in() -> None:
    scenario = load()
    assert (scenario.name, scenario.seed, scenario.duration_ns) == ("test", 1, 10 * SECOND_NS)
    nodes = cluster_nodes(scenario.spec.nodes)
    assert [(n.name, n.zone, n.ips, n.pod_cidrs) for n in nodes] == [
        ("node-1", "a", ("192.168.0.1",), ("10.180.1.0/24",)),
        ("node-2", "b", ("192.168.0.2",), ("10.180.2.0/24",)),
    ]
    assert scenario.spec.workload("web").pod_labels == {"app": "web"}
    assert scenario.proxy.cluster_cidr == "10.180.0.0/16"
    assert scenario.proxy.min_sync_period_ns == SECOND_NS


def test_named_nodes_leave_given_addresses_out_of_the_plan() -> None:
    head = HEAD.replace("nodes: {count: 2, zones: [a, b]}", "nodes: {list: [{name: x}, {name: y, ips: [192.168.0.1]}]}")
    assert [node.ips for node in cluster_nodes(load(head=head).spec.nodes)] == [("192.168.0.2",), ("192.168.0.1",)]


def test_objects_are_completed_as_an_api_server_would() -> None:
    (service,) = load().objects
    assert service.metadata.namespace == "default"
    assert service.json["spec"]["internalTrafficPolicy"] == "Cluster"  # O-3.1


def test_manifests_are_found_beside_the_scenario_file(tmp_path: Path) -> None:
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "api", "namespace": "shop"},
               "spec": {"clusterIP": "172.30.0.20", "selector": {"app": "web"}, "ports": [{"port": 80}]}}  # fmt: skip
    (tmp_path / "service.json").write_text(json.dumps(service))
    file = tmp_path / "scenario.yaml"
    file.write_text(HEAD + "manifests: [service.json]\n")
    found = load_scenario(file)
    assert [str(obj.key) for obj in found.objects] == ["Service default/web", "Service shop/api"]


def test_pods_in_objects_that_no_service_selects_are_left_out_by_a_note() -> None:
    pod = "  - {apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: [{name: c, image: i}]}}\n"
    assert "left out: 1 Pod that no Service of the draft selects" in load(pod).notes


def test_a_traffic_source_with_everything() -> None:
    text = """
traffic:
  - {name: t, from: pods, workload: web, service: web, port: 80, via: clusterIP, perSecond: 2.5, arrivals: poisson,
     start: 1s, stop: 2s, long: {lasts: {uniform: {low: 1s, high: 2s}}, packetEvery: 100ms}}
"""
    (traffic,) = load(text).spec.traffic
    assert (traffic.origin, traffic.via, traffic.arrivals) == (Origin.PODS, Via.CLUSTER_IP, Arrivals.POISSON)
    assert (traffic.start_ns, traffic.stop_ns) == (SECOND_NS, 2 * SECOND_NS)
    assert traffic.long is not None and traffic.long.packet_every_ns == 100 * MILLISECOND_NS


# ------------------------------------------------------------------------------------------------------------- refusing


def test_everything_wrong_is_said_at_once_with_line_and_path() -> None:
    head = """\
apiVersion: kpsim.dev/v1alpha1
kind: Scenario
metadata: {name: test}
duration: 10
nodes: {count: 3, zone: a}
workloads:
  - name: web
    replica: 3
    startup: {delay: {uniform: {low: 2s, high: 1s}}}
    termination: {grace: -3s, pre_stop: 2s}
traffic:
  - {name: a, service: web, perSecond: x, via: clusterIp}
"""
    assert refused(head=head) == [
        "test.yaml:4: .duration: expected a duration with a unit (like 30s, 500ms, 1m30s), got 10",
        "test.yaml:5: .nodes.zone: unknown field 'zone'; did you mean 'zones'?",
        "test.yaml:8: .workloads[0].replica: unknown field 'replica'; did you mean 'replicas'?",
        "test.yaml:9: .workloads[0].startup.delay.uniform: expected high to be at least low",
        'test.yaml:10: .workloads[0].termination.grace: expected a duration of zero or more, got "-3s"',
        "test.yaml:10: .workloads[0].termination.pre_stop: unknown field 'pre_stop'; did you mean 'preStop'?",
        "test.yaml:12: .traffic[0].via: expected 'clusterIP', 'nodePort', 'externalIP' or 'loadBalancer', "
        "got \"clusterIp\"; did you mean 'clusterIP'?",
        'test.yaml:12: .traffic[0].perSecond: expected a valid number, got "x"',
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("events: [{at: 1s}]", ".events[0]: expected exactly one of rollout, scale"),
        ("events: [{at: 1s, scale: {workload: web, replicas: 1}, nodeDown: {nodes: [node-1]}}]", "got scale and nodeDown"),
        ("events: [{at: 11s, scale: {workload: web, replicas: 1}}]", ".events[0].at: not before the end of the run (10s)"),
        ("events: [{at: 10s, scale: {workload: web, replicas: 1}}]", ".events[0].at: not before the end of the run (10s)"),
        ("events: [{at: 1s, rollout: {workload: web, maxSurge: 0%, maxUnavailable: 0}}]",
         ".events[0].rollout: expected maxUnavailable above 0 when maxSurge is 0"),
        ("events: [{at: 1s, rollout: {workload: web, maxUnavailable: 101%}}]",
         ".events[0].rollout: expected maxUnavailable of at most 100%"),
        ("events: [{at: 1s, scale: {workload: wep, replicas: 1}}]",
         ".events[0].scale.workload: there is no workload 'wep'; did you mean 'web'?"),
        ("events: [{at: 1s, nodeDown: {nodes: [node-3]}}]",
         ".events[0].nodeDown.nodes[0]: there is no node 'node-3'; did you mean 'node-2'?"),
        ("events: [{at: 1s, failSyncs: {count: 1, for: 2s}}]", ".events[0].failSyncs: expected exactly one of count, for"),
        ("events: [{at: 1s, deleteService: {service: wob}}]",
         ".events[0].deleteService.service: there is no Service 'default/wob'; did you mean 'default/web'?"),
        ("traffic: [{name: t, service: web, perSecond: 0}]", ".traffic[0].perSecond: expected greater than 0, got 0"),
        ("traffic: [{name: t, service: web, perSecond: true}]", ".traffic[0].perSecond: expected a valid number, got true"),
        ("traffic: [{name: t, service: web, perSecond: 1, port: 81}]",
         ".traffic[0].port: the Service has no port 81; it has (no name) 80/TCP"),
        ("traffic: [{name: t, service: web, perSecond: 1, via: nodePort}]",
         ".traffic[0].via: the Service lacks type NodePort or LoadBalancer"),
        ("traffic: [{name: t, service: web, perSecond: 1, sourcePorts: 2, long: {lasts: 1s}}]", ".traffic[0]: sourcePorts goes with"),
        ("traffic: [{name: t, from: pods, service: web, perSecond: 1}]", "expected workload exactly if the traffic is from: pods"),
        ("traffic: [{name: t, service: web, perSecond: 1}, {name: t, service: web, perSecond: 1}]",
         ".traffic[1].name: a second traffic source called 't'"),
        ("delays: {apiWrite: {constant: 1s, choice: {values: [1s]}}}",
         ".delays.apiWrite: expected exactly one of constant, uniform, exponential, normal, choice; got constant and choice"),
        ("delays: {onNodes: [{nodes: [nod-1]}]}", ".delays.onNodes[0].nodes[0]: there is no node 'nod-1'"),
        ("proxy: {iptables: {minSyncPeriod: 1x}}", ".proxy.iptables.minSyncPeriod"),
        ("seed: 1.5", ".seed: expected a valid integer, got 1.5"),
        ("seed: 1\nseed: 2", "the key 'seed' stands twice in one mapping"),
    ],
)  # fmt: skip
def test_refusals(text: str, expected: str) -> None:
    problems = refused(text)
    assert len(problems) == 1, problems
    assert problems[0].startswith("test.yaml:") and expected in problems[0]


def test_a_patch_that_an_api_server_refuses_is_refused_when_loading() -> None:
    # O-3.2: nodePort is forbidden for type ClusterIP
    text = """\
events:
  - at: 1s
    patchService:
      service: web
      patch: {spec: {ports: [{port: 80, nodePort: 30080}]}}
"""
    (problem,) = refused(text)
    assert "nodePort" in problem and problem.startswith("test.yaml:17")


def test_events_on_services_are_tried_in_order_of_time() -> None:
    text = """\
events:
  - {at: 3s, patchService: {service: web, patch: {metadata: {labels: {a: b}}}}}
  - {at: 2s, deleteService: {service: web}}
"""
    (problem,) = refused(text)
    assert problem == ("test.yaml:14: .events[0].patchService.service: there is no Service default/web at that time")


def test_a_created_service_is_known_to_traffic_and_events() -> None:
    text = """\
events:
  - at: 1s
    createService:
      apiVersion: v1
      kind: Service
      metadata: {name: later}
      spec: {selector: {app: web}, ports: [{port: 81}]}
  - {at: 2s, deleteService: {service: later}}
traffic:
  - {name: t, service: later, perSecond: 1}
"""
    scenario = load(text)
    assert scenario.spec.events[0].kind is ActionKind.CREATE_SERVICE
    assert scenario.created[0].cluster_ip not in ("", "172.30.0.10")  # allocated beside the other


DUAL = "nodes: {count: 2, ipFamilies: [IPv4, IPv6]}"


def test_dual_stack_nodes_have_addresses_of_both_plans() -> None:
    scenario = load(head=HEAD.replace("nodes: {count: 2, zones: [a, b]}", DUAL))
    first, _ = cluster_nodes(scenario.spec.nodes)
    assert first.ips == ("192.168.0.1", "fd00:192:168::1")
    assert first.pod_cidrs == ("10.180.1.0/24", "fd00:10:180:1::/64")
    assert scenario.proxy.cluster_cidr == "10.180.0.0/16,fd00:10:180::/48"


def test_a_dual_stack_service_gets_an_address_of_each_family() -> None:
    head = HEAD.replace("nodes: {count: 2, zones: [a, b]}", DUAL)
    head = head.replace("clusterIP: 172.30.0.10", "clusterIP: 172.30.0.10, ipFamilyPolicy: PreferDualStack")
    (service,) = load(head=head).objects
    assert service.json["spec"]["ipFamilies"] == ["IPv4", "IPv6"]
    assert len(service.json["spec"]["clusterIPs"]) == 2


def test_families_that_the_cluster_lacks_are_refused() -> None:
    head = HEAD.replace("clusterIP: 172.30.0.10", "ipFamilies: [IPv6], clusterIP: 'fd00:172:30::10'")
    assert any("Service default/web is IPv6, the cluster only IPv4" in problem for problem in refused(head=head))
    head = HEAD.replace("nodes: {count: 2, zones: [a, b]}", "nodes: {list: [{name: x, ips: ['fd00::1']}]}")
    assert refused(head=head) == ["test.yaml:5: .nodes.list[0].ips: expected each address once, and only of IPv4"]
    assert (
        "expected each of ipFamilies once" in refused(head=HEAD.replace("zones: [a, b]", "ipFamilies: [IPv4, IPv4]"))[0]
    )


def test_no_yaml_and_no_file_are_said_plainly(tmp_path: Path) -> None:
    assert "no YAML" in refused(head="a: [")[0]
    with pytest.raises(InputError, match="expected one document, a Scenario; got 2"):
        parse_scenario("a: 1\n---\nb: 2\n", "x.yaml")
    with pytest.raises(InputError, match="neither a file nor a built-in scenario; did you mean 'local-rollout'"):
        load_scenario("local-rolout")
    with pytest.raises(InputError, match="cannot be read: No such file"):
        load_scenario(tmp_path / "none.yaml")


# ------------------------------------------------------------------------------------------------------------ overrides


def test_settings_change_the_document_before_it_is_checked() -> None:
    text = "traffic: [{name: t, service: web, perSecond: 1}]\n"
    settings = ["traffic[t].perSecond=5", "workloads.0.replicas=4", "delays.sync.base={uniform: {low: 1s, high: 2s}}"]
    spec = load(text, settings=settings).spec
    assert (spec.traffic[0].per_second, spec.workloads[0].replicas) == (5, 4)
    assert spec.delays.sync.base.uniform is not None


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("workloads[1].replicas=2", ".workloads has 1 items: there is no [1]"),
        (
            "workloads[wbe].replicas=2",
            ".workloads is a list: expected a position from 0 or an item's name, got 'wbe'; did you mean 'web'?",
        ),
        ("nodes.zones[a].b=2", ".nodes.zones is a list: expected a position from 0 or an item's name, got 'a'"),
        ("objects[shop].spec.type=NodePort", "got 'shop'; its items are web"),
        ("duration.of=2", ".duration is a single value: it has no 'of'"),
        ("nodes[0]=2", ".nodes is not a list: it has no [0]"),
        ("seed", "expected path=value"),
        ("seed=[", "no YAML"),
        ("a..b=1", "not a path"),
        ("sede=3", ".sede: unknown field 'sede'; did you mean 'seed'?"),
        ("nodes.foo.bar=1", ".nodes.foo: unknown field 'foo'"),
        ("proxy.iptables.minSyncPeriod=soon", ".proxy.iptables.minSyncPeriod: "),
        ("objects[0].spec.sessionAffinty=ClientIP", ".objects[0].spec.sessionAffinty: "),
        ("workloads[0].replicas=many", '.workloads[0].replicas: expected a valid integer, got "many"'),
    ],
)
def test_settings_that_do_not_fit_are_named(setting: str, expected: str) -> None:
    (problem,) = refused(settings=[setting])
    assert problem.startswith(f"--set {setting}") and expected in problem


def test_settings_leave_the_original_alone() -> None:
    document = read_document(HEAD, "test.yaml")
    override(document, ["workloads[0].replicas=9"])
    assert document.content["workloads"][0]["replicas"] == 2


def test_of_several_settings_the_one_that_is_wrong_is_blamed() -> None:
    (problem,) = refused(settings=["proxy.iptables.minSyncPeriod=5s", "proxy.iptables.syncPeriod=soon"])
    assert problem.startswith("--set proxy.iptables.syncPeriod=soon: .proxy.iptables.syncPeriod: ")
    replaced = ["delays.sync.base=5", "delays.sync={}"]
    assert load(settings=replaced).spec.delays.sync.base.constant_ns == 50 * MILLISECOND_NS


def test_seed_and_mode_can_be_given() -> None:
    scenario = load_scenario("sync-lag-burst", seed=7, mode="iptables")
    assert (scenario.seed, scenario.proxy.mode) == (7, Mode.IPTABLES)


@pytest.mark.parametrize("seed", [2**63, -(2**63) - 1])
def test_a_seed_that_a_file_could_not_have_is_refused(seed: int) -> None:
    with pytest.raises(InputError, match=f"seed {seed}: expected a number of 64 bits"):
        load_scenario("sync-lag-burst", seed=seed)


def test_a_mode_that_does_not_exist_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="there is no mode 'iptable'; did you mean 'iptables'"):
        load_scenario("sync-lag-burst", mode="iptable")


# --------------------------------------------------------------------------------------------------------------- schema


def test_the_json_schema_names_fields_as_the_file_does() -> None:
    schema = scenario_json_schema()
    assert schema["required"] == ["apiVersion", "kind", "metadata", "duration", "nodes"]
    traffic = schema["$defs"]["Traffic"]
    assert {"from", "perSecond", "sourcePorts"} <= traffic["properties"].keys()
    assert traffic["additionalProperties"] is False
    delay = schema["$defs"]["Delay"]["anyOf"]
    assert "string" in delay[0]["type"]  # the shorthand
    assert set(delay[1]["properties"]) == {"constant", "uniform", "exponential", "normal", "choice"}


def test_built_in_scenarios_say_what_they_are() -> None:
    for name in scenario_names():
        scenario = load_scenario(name)
        assert scenario.name == name
        assert scenario.spec.description
        assert scenario.expect
        assert scenario_path(name).read_text().startswith("# "), name


def test_a_choice_of_delays_is_read() -> None:
    text = "delays: {apiWrite: {choice: {values: [1s, 2s], weights: [1, 3]}}}\n"
    choice = load(text).spec.delays.api_write.choice
    assert choice is not None and (choice.values_ns, choice.weights) == ((SECOND_NS, 2 * SECOND_NS), (1.0, 3.0))


def test_a_mode_in_the_file_holds_unless_it_is_overridden(tmp_path: Path) -> None:
    file = tmp_path / "scenario.yaml"
    file.write_text(HEAD + "proxy: {mode: ipvs}\n")
    assert load_scenario(file).proxy.mode is Mode.IPVS
    assert load_scenario(file, mode="iptables").proxy.mode is Mode.IPTABLES


def test_one_name_for_all_nodes_is_refused() -> None:
    (problem,) = refused("proxy: {hostnameOverride: x}\n")
    assert problem == "test.yaml:13: .proxy.hostnameOverride: one name for all nodes: nodes are named by nodes"


def test_the_json_schema_accepts_the_built_in_scenarios_and_refuses_what_loading_refuses() -> None:
    validator = jsonschema.Draft202012Validator(scenario_json_schema())
    for name in scenario_names():
        assert list(validator.iter_errors(read_document(scenario_path(name).read_text(), name).content)) == []
    content = dict(read_document(HEAD, "test.yaml").content)
    for duration in (0, "1µs", "1\u03bcs", "1h1m.5s"):  # both ways to write micro, as Go has them
        assert validator.is_valid({**content, "delays": {"apiWrite": duration}}), duration
        load(f"delays: {{apiWrite: {duration}}}")
    assert not validator.is_valid({**content, "delays": {"apiWrite": 1}})
    for field, wrong in (
        ("duration", "ten"),
        ("sede", 1),
        ("nodes", {"count": 0}),
        ("delays", {"apiWrite": {"mean": "1s"}}),
    ):
        assert list(validator.iter_errors({**content, field: wrong})), field


# ------------------------------------------------------------------------------------------------- slices that are given

_SELECTING = """
  - apiVersion: v1
    kind: Service
    metadata: {name: web, namespace: shop}
    spec: {clusterIP: 172.30.0.10, selector: {app: web}, ports: [{port: 80}]}
  - apiVersion: discovery.k8s.io/v1
    kind: EndpointSlice
    metadata:
      name: web-own
      namespace: shop
      labels: {kubernetes.io/service-name: web%s}
    addressType: IPv4
    ports: [{port: 80}]
    endpoints: [{addresses: [10.99.0.1]}]
"""
_BARE = """apiVersion: kpsim.dev/v1alpha1
kind: Scenario
metadata: {name: slices}
duration: 1s
nodes: {count: 1}
objects:"""


def test_a_slice_that_the_controller_manages_is_refused() -> None:
    """CP-3.3: the controller rewrites or deletes the slices with its label at once."""
    label = ", endpointslice.kubernetes.io/managed-by: endpointslice-controller.k8s.io"
    with pytest.raises(InputError, match=r"slices\.yaml:11: \.objects\[1\]: EndpointSlice shop/web-own: the label"):
        parse_scenario(_BARE + _SELECTING % label, "slices.yaml")


def test_a_slice_that_nobody_manages_stays_beside_the_controllers() -> None:
    """kube-proxy reads every slice with the label of the Service's name (O-6.1), whoever writes it."""
    scenario = parse_scenario(_BARE + _SELECTING % "", "slices.yaml")
    assert [str(obj.key) for obj in scenario.objects] == ["Service shop/web", "EndpointSlice shop/web-own"]


def test_what_a_scenario_takes_without_use_is_said() -> None:
    text = _BARE + (_SELECTING % "").replace("selector: {app: web}", "type: NodePort, selector: {app: web}").replace(
        "[{port: 80}]}", "[{port: 80, nodePort: 80}]}"
    )
    notes = parse_scenario(text + "proxy: {colour: red}\n", "slices.yaml").notes
    assert notes == (
        "node ports outside 30000-32767, which an API server gives only with another --service-node-port-range: shop/web 80",
        "kube-proxy ignores the unknown field .colour of its configuration",
    )


def test_traffic_of_pods_that_never_exist_is_said() -> None:
    base = (
        _BARE
        + (_SELECTING % "")
        + (
            "workloads: [{name: w, replicas: 0}]\n"
            "traffic: [{name: t, from: pods, workload: w, service: shop/web, perSecond: 1}]\n"
        )
    )
    said = "traffic source t sends nothing: its workload w has no replicas, and no event scales it"
    assert said in parse_scenario(base, "s.yaml").notes
    scaled = base + "events: [{at: 10ms, scale: {workload: w, replicas: 1}}]\n"
    assert said not in parse_scenario(scaled, "s.yaml").notes


def test_flags_among_the_manifests_count_exactly(tmp_path: Path) -> None:
    """CFG-2.2.2: by flag a least period of zero is zero; a scenario's own value overrides it."""
    (tmp_path / "kube-proxy.args").write_text("--iptables-min-sync-period=0\n--cluster-cidr=10.180.0.0/16\n")
    text = _BARE.replace("objects:", "manifests: [kube-proxy.args]\n")
    assert parse_scenario(text, str(tmp_path / "s.yaml")).proxy.min_sync_period_ns == 0
    own = text + "proxy: {iptables: {minSyncPeriod: 2s}}\n"
    assert parse_scenario(own, str(tmp_path / "s.yaml")).proxy.min_sync_period_ns == 2 * SECOND_NS
