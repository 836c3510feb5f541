import json
from dataclasses import fields

import pytest

from training.errors import InvalidConfig
from training.gate.policy import GatePolicy


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"primry": "x"}, "policy.primry is unknown; the policy has primary, confidence"),
        ({"primary": "recall"}, "policy.primary must be one of mean_of_parts_recall_at_1, .* got 'recall'"),
        ({"confidence": 1.0}, "policy.confidence must be a number from 0.5 to below 1, got 1.0"),
        ({"confidence": 0.4}, "policy.confidence"),
        ({"confidence": "0.9"}, "policy.confidence must be .*, got '0.9'"),
        ({"confidence": True}, "policy.confidence"),
        ({"confidence": float("nan")}, "policy.confidence"),
        ({"min_improvement": -0.1}, "policy.min_improvement must be a number from 0"),
        ({"min_queries": 0}, "policy.min_queries must be a whole number of at least 1, got 0"),
        ({"min_queries": 2.5}, "policy.min_queries"),
        ({"min_class_queries": True}, "policy.min_class_queries"),
        ({"guards": ["map_at_r"]}, "policy.guards must be an object"),
        ({"guards": {"map": 0.1}}, "policy.guards knows the metrics recall_at_1, .*; got 'map'"),
        ({"guards": {"map_at_r": -1}}, "policy.guards.map_at_r must be a number from 0 to 1, got -1"),
        ({"guards": {"map_at_r": None}}, "policy.guards.map_at_r"),
        ({"max_class_drop": 1.1}, "policy.max_class_drop must be a number from 0 to 1, got 1.1"),
        ({"max_latency_ratio": 0}, "policy.max_latency_ratio must be a number above 0, got 0"),
        ({"min_index_recall": 95}, "policy.min_index_recall must be a number from 0 to 1, got 95"),
        ({"force": "yes"}, "policy.force must be true or false, got 'yes'"),
        ({"force": True}, "policy.force_reason must be a text that says why"),
        ({"force": True, "force_reason": "  "}, "policy.force_reason"),
        ({"force_reason": 3}, "policy.force_reason must be text, got 3"),
        (["force"], "the policy must be an object"),
    ],
)
def test_an_invalid_policy_is_refused(values, message):
    with pytest.raises(InvalidConfig, match=message):
        GatePolicy.from_json(values)


def test_a_policy_survives_a_round_trip():
    policy = GatePolicy(min_improvement=0.01, guards={"recall_at_4": 0.1}, force=True, force_reason="so")

    assert GatePolicy.from_json(json.loads(json.dumps(policy.to_json()))) == policy
    assert GatePolicy.from_json({}) == GatePolicy()
    assert set(policy.to_json()) == {key.name for key in fields(GatePolicy)}
