import pytest

from service.operations.errors import InvalidOperation
from service.operations.requests import parse_build, parse_retrain


def test_an_empty_request_takes_all_labels_and_the_default_gate():
    request = parse_retrain({})

    assert request.data == "all"
    assert request.promote == "automatic"
    assert request.policy().primary == "mean_of_parts_recall_at_1"
    assert parse_retrain(b"") == request


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"labels": "all"}, r"labels: Extra inputs.*allowed fields are data, preset"),
        ({"data": "yesterday"}, r"data.*'yesterday'"),
        ({"preset": "huge"}, r"no preset 'huge'; presets are .*head"),
        ({"preset": "../presets/head"}, r"no preset '../presets/head'"),
        ({"overrides": ["loss.nome=triplet"]}, r"loss.nome"),
        ({"overrides": ["steps"]}, r"'steps' is not of the form"),
        ({"overrides": ["split.unseen_share=0"]}, r"may not change split.unseen_share: held-out images"),
        ({"overrides": ["split={unseen_share=0.0, seen_example_share=0.001}"]}, r"may not change split.unseen_share"),
        ({"overrides": ['network={checkpoint="/etc"}']}, r"may not change network.checkpoint: use base"),
        ({"overrides": ["network.checkpoint=/etc"]}, r"may not change network.checkpoint: use base"),
        ({"base": "best"}, r"base.*'best'"),
        ({"gate": {"min_improvment": 1}}, r"gate: policy.min_improvment is unknown; the policy has"),
        ({"gate": {"force": True}}, r"gate: .*force_reason"),
        ({"promote": "maybe"}, r"promote.*'maybe'"),
        ({"note": "x" * 1001}, r"note"),
    ],
)
def test_names_the_invalid_value(value, message):
    with pytest.raises(InvalidOperation, match=message):
        parse_retrain(value)


def test_refuses_a_body_that_is_not_json():
    with pytest.raises(InvalidOperation, match="invalid request: body"):
        parse_retrain(b"{")
    with pytest.raises(InvalidOperation, match=r"activate.*'perhaps'"):
        parse_build({"activate": "perhaps"})


def test_a_time_without_zone_is_utc():
    assert parse_retrain({"data": "2025-03-01T10:00:00"}).model_dump(mode="json")["data"] == "2025-03-01T10:00:00Z"


def test_overrides_cannot_change_how_the_test_part_is_held_out():
    for override in ("split.validation_share=0", "split.test=none", 'split={test="none"}'):
        assert parse_retrain({"overrides": [override]}).config("head").split.test == "hash"
