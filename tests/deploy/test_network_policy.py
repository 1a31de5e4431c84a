"""What the shipped network policies let out and in, by the rules of a NetworkPolicy; no CNI runs here to enforce one.

Peers are those of a cluster as the manifests name them: a pod of a namespace, or an address outside.
"""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import pytest
import yaml

from tests.deploy.helm import CHART, Helm, only

Policy = dict[str, Any]
NAMESPACE = "kubernetes.io/metadata.name"
KUBERNETES = CHART.parents[1] / "kubernetes"
# (namespace or address, port) -> may it be reached?
OUT = {
    ("kube-system", 53): True,
    ("169.254.20.10", 53): True,  # NodeLocal DNSCache
    ("kafka", 9092): True,
    ("kafka", 9093): True,
    ("clickhouse", 8123): True,
    ("clickhouse", 8443): True,
    ("198.51.100.7", 443): True,  # PagerDuty, over IPv4 and IPv6
    ("2001:db8::7", 443): True,
    ("169.254.169.254", 80): False,  # where clouds keep credentials
    ("169.254.169.254", 443): False,
    ("fd00:ec2::254", 443): False,
    ("fe80::1", 443): False,
    ("198.51.100.7", 80): False,
    ("198.51.100.7", 22): False,
    ("default", 5432): False,
    ("kafka", 22): False,
    ("clickhouse", 9000): False,
}


def manifest(name: str) -> Policy:
    items = yaml.safe_load_all((KUBERNETES / name).read_text())
    return dict(next(item["spec"] for item in items if item["kind"] == "NetworkPolicy"))


@pytest.fixture(params=["sidecar.yaml", "witness.yaml", "the chart"])
def policy(request: pytest.FixtureRequest) -> Policy:
    if request.param != "the chart":
        return manifest(request.param)
    helm: Helm = request.getfixturevalue("helm")
    return dict(only(helm.render("witness"), "NetworkPolicy")["spec"])


def selects(to: dict[str, Any], peer: str) -> bool:
    """One peer of a rule. An address block is about what is outside, a namespace about pods."""
    try:
        address = ip_address(peer)
    except ValueError:
        labels = to.get("namespaceSelector", {}).get("matchLabels", {})
        assert set(to) <= {"namespaceSelector", "ipBlock"} and set(labels) <= {NAMESPACE}, f"not judged here: {to}"
        return bool(labels) and labels[NAMESPACE] == peer
    block = to.get("ipBlock")
    return block is not None and within(address, block["cidr"]) and not any(within(address, o) for o in excepted(block))


def within(address: Any, network: str) -> bool:
    return address in ip_network(network)


def excepted(block: dict[str, Any]) -> list[str]:
    return list(block.get("except", ()))


def lets(rules: list[dict[str, Any]], side: str, peer: str, port: int) -> bool:
    """Rules add up; a rule without peers is about everybody, one without ports about every port."""
    return any(
        (not rule.get(side) or any(selects(to, peer) for to in rule[side]))
        and (not rule.get("ports") or any(each["port"] == port and each["protocol"] == "TCP" for each in rule["ports"]))
        for rule in rules
    )


def test_it_lets_out_to_exactly_what_the_agent_needs(policy: Policy) -> None:
    assert "Egress" in policy["policyTypes"]
    assert {(peer, port): lets(policy["egress"], "to", peer, port) for peer, port in OUT} == OUT


def test_every_rule_names_its_peers_and_its_ports(policy: Policy) -> None:
    assert all(rule.get("to") and rule.get("ports") for rule in policy["egress"])
    assert {each["protocol"] for rule in policy["egress"] for each in rule["ports"]} <= {"TCP", "UDP"}


def test_pods_of_our_own_are_reached_at_the_port_of_their_metrics_alone(policy: Policy) -> None:
    """A patched engine has users: what reaches it is not ours to say."""
    if "Ingress" not in policy["policyTypes"]:
        assert "ingress" not in policy
        return
    assert lets(policy["ingress"], "from", "monitoring", 9464)
    assert not lets(policy["ingress"], "from", "monitoring", 9465), "the status page with texts stays on the loopback"
