"""Invariants of every loss."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from tests.training.losses.batches import EMBEDDING_DIM, LOSSES, NUM_CLASSES, create, draw_batch, run
from training.losses.factory import LossConfig, create_loss, pairs_for
from training.losses.pairs import Pairs, all_pairs, representative_pairs

EVERY = {
    f"{name}-{pairs}": dataclasses.replace(config, pairs=pairs)
    for name, config in LOSSES.items()
    for pairs in ("all", "representative", "mixed")
}
UNMIXED = {name: config for name, config in EVERY.items() if config.pairs != "mixed"}


def is_learning_proxies(config):
    return config.name == "proxy_anchor" and config.pairs != "representative"


@pytest.mark.parametrize("config", EVERY.values(), ids=EVERY)
def test_order_of_the_batch_does_not_matter(config):
    loss = create(config)
    raw, labels, is_representative = draw_batch(1)
    order = torch.randperm(len(labels))

    value = run(loss, config, raw, labels, is_representative).value
    permuted = run(loss, config, raw[order], labels[order], is_representative[order]).value

    torch.testing.assert_close(permuted, value, rtol=1e-12, atol=1e-12)
    (gradient,) = torch.autograd.grad(value, raw, retain_graph=True)
    (permuted_gradient,) = torch.autograd.grad(permuted, raw)
    torch.testing.assert_close(permuted_gradient, gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("config", EVERY.values(), ids=EVERY)
def test_gradients_equal_finite_differences(config):
    loss = create(config)
    raw, labels, is_representative = draw_batch(2)
    pairs = pairs_for(config, labels, is_representative)
    names = [name for name, _ in loss.named_parameters()]

    def value_of(embeddings, *parameters):
        weights = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(loss, weights, (F.normalize(embeddings, dim=1), labels, pairs)).value

    assert torch.autograd.gradcheck(value_of, (raw, *loss.parameters()))


@pytest.mark.parametrize("config", EVERY.values(), ids=EVERY)
def test_learnt_weights_of_a_loss_get_a_gradient(config):
    loss = create(config)
    learns = config.name == "margin" or is_learning_proxies(config)

    run(loss, config, *draw_batch(0)).value.backward()

    assert bool(list(loss.parameters())) == learns
    for parameter in loss.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().max() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("config", EVERY.values(), ids=EVERY)
def test_half_precision_gives_a_finite_float32_loss(config, dtype):
    raw, labels, is_representative = draw_batch(0, torch.float32)
    loss = create(config).float()
    pairs = pairs_for(config, labels, is_representative)
    embeddings = F.normalize(raw, dim=1)
    halves = embeddings.detach().to(dtype).requires_grad_()

    output = loss(halves, labels, pairs)
    output.value.backward()

    assert output.value.dtype == torch.float32
    torch.testing.assert_close(output.value, loss(halves.float(), labels, pairs).value, rtol=0, atol=0)
    assert halves.grad is not None
    assert torch.isfinite(halves.grad).all()


@pytest.mark.parametrize("config", EVERY.values(), ids=EVERY)
def test_autocast_does_not_reach_the_loss(config):
    raw, labels, is_representative = draw_batch(0, torch.float32)
    loss = create(config).float()

    expected = run(loss, config, raw, labels, is_representative).value
    with torch.autocast("cpu", torch.bfloat16):
        value = run(loss, config, raw, labels, is_representative).value

    torch.testing.assert_close(value, expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("config", EVERY.values(), ids=EVERY)
def test_equal_images_give_finite_losses(config, dtype):
    _, labels, is_representative = draw_batch(0)
    raw = torch.ones(len(labels), EMBEDDING_DIM, dtype=dtype, requires_grad=True)
    loss = create(config).float()

    output = run(loss, config, raw, labels, is_representative)
    output.value.backward()

    assert torch.isfinite(output.value)
    assert raw.grad is not None
    assert torch.isfinite(raw.grad).all()


@pytest.mark.parametrize("config", EVERY.values(), ids=EVERY)
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_extreme_cosines_stay_finite(config, sign):
    """The worst embedding (positives opposite, negatives equal) and the best."""
    labels = torch.tensor([0, 0, 1, 1])
    axis = torch.eye(EMBEDDING_DIM)[0]
    raw = torch.stack([axis, sign * axis, -sign * axis, -axis]).requires_grad_()
    loss = create(config).float()

    output = run(loss, config, raw, labels, torch.tensor([True, False, True, False]))
    output.value.backward()

    assert torch.isfinite(output.value)
    assert raw.grad is not None
    assert torch.isfinite(raw.grad).all()


def assert_is_zero_without_gradient(output, raw):
    output.value.backward()

    assert output.value.item() == 0
    assert output.num_active.item() == 0 or output.num_pairs.item() == output.num_active.item()
    torch.testing.assert_close(raw.grad, torch.zeros_like(raw), rtol=0, atol=1e-30)


# Learnt proxies need no pair of images.
NEEDS_PAIRS = {name: config for name, config in UNMIXED.items() if not is_learning_proxies(config)}


@pytest.mark.parametrize("config", NEEDS_PAIRS.values(), ids=NEEDS_PAIRS)
def test_no_allowed_pair_gives_zero_and_no_gradient(config):
    raw, labels, _ = draw_batch(0, torch.float32)
    nothing = torch.zeros(len(labels), len(labels), dtype=torch.bool)
    kept = all_pairs(labels)
    pairs = Pairs(kept.kind, nothing, kept.has_same_label_BB, kept.is_representative_B)
    if config.pairs == "representative":
        # Every image a representative: there is no sample.
        pairs = representative_pairs(labels, torch.ones_like(labels, dtype=torch.bool))

    output = create(config).float()(F.normalize(raw, dim=1), labels, pairs)

    assert_is_zero_without_gradient(output, raw)


NEEDS_BOTH = {
    name: config
    for name, config in UNMIXED.items()
    if config.name in ("triplet", "lifted_structure", "n_pair", "angular")
}


@pytest.mark.parametrize("config", NEEDS_BOTH.values(), ids=NEEDS_BOTH)
@pytest.mark.parametrize("labels", [[0, 0, 0, 0], [0, 1, 2, 3]], ids=["one class", "no positive"])
def test_a_loss_of_positives_against_negatives_is_zero_without_either(config, labels):
    raw = torch.randn(4, EMBEDDING_DIM, requires_grad=True)
    is_representative = torch.tensor([True, False, True, False])

    output = run(create(config).float(), config, raw, torch.tensor(labels), is_representative)

    assert_is_zero_without_gradient(output, raw)


@pytest.mark.parametrize("config", EVERY.values(), ids=EVERY)
@pytest.mark.parametrize("labels", [[0, 0, 0, 0], [0, 1, 2, 3]], ids=["one class", "no positive"])
def test_one_sided_batches_stay_finite(config, labels):
    """Losses with separate parts for positives and negatives keep the part with pairs."""
    raw = torch.randn(4, EMBEDDING_DIM, requires_grad=True)
    is_representative = torch.tensor([True, False, False, False])

    output = run(create(config).float(), config, raw, torch.tensor(labels), is_representative)
    output.value.backward()

    assert torch.isfinite(output.value)
    assert raw.grad is not None
    assert torch.isfinite(raw.grad).all()


class RefusesToWait(TorchDispatchMode):
    """Fail on operations that make the host wait for the device, or whose shape depends on values."""

    FORBIDDEN = (
        "aten::nonzero",
        "aten::_local_scalar_dense",
        "aten::masked_select",
        "aten::_unique2",
        "aten::is_nonzero",
    )

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name().split(".")[0]
        indices = (
            args[1] if name.startswith("aten::index") and len(args) > 1 and isinstance(args[1], list | tuple) else []
        )
        has_mask = any(isinstance(index, torch.Tensor) and index.dtype == torch.bool for index in indices)
        assert name not in self.FORBIDDEN, name
        assert not has_mask, f"{name} with a mask"
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("config", EVERY.values(), ids=EVERY)
def test_nothing_waits_for_the_device(config):
    loss = create_loss(config, NUM_CLASSES, EMBEDDING_DIM)
    raw, labels, is_representative = draw_batch(0, torch.float32)

    with RefusesToWait():
        output = run(loss, config, raw, labels, is_representative)
        output.value.backward()

    assert raw.grad is not None


@pytest.mark.parametrize("operation", [lambda x: x.item(), lambda x: x[x > 0], lambda x: x.nonzero(), bool])
def test_operations_that_wait_are_detected(operation):
    with RefusesToWait(), pytest.raises(AssertionError):
        operation(torch.ones(1))


@pytest.mark.gpu
@pytest.mark.parametrize("config", EVERY.values(), ids=EVERY)
def test_runs_on_a_gpu_without_waiting(config):
    loss = create_loss(config, NUM_CLASSES, EMBEDDING_DIM)
    raw, labels, is_representative = draw_batch(0, torch.float32)
    expected = run(loss, config, raw, labels, is_representative).value.item()
    loss = loss.cuda()
    on_device = [raw.detach().cuda().requires_grad_(), labels.cuda(), is_representative.cuda()]

    torch.cuda.set_sync_debug_mode("error")
    try:
        value = run(loss, config, *on_device).value
        value.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")

    assert value.item() == pytest.approx(expected, rel=1e-4)


def test_triplets_of_a_large_batch_need_few_tensors_of_their_size():
    """128³ numbers are 8 MB, and autograd keeps one such tensor."""
    config = LossConfig("triplet", margin=1.0)
    labels = torch.arange(128) // 4
    raw = torch.randn(128, 16, requires_grad=True)
    kept = {}

    def remember(tensor):
        kept[tensor.data_ptr()] = tensor.nelement() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        run(create_loss(config, 32, 16), config, raw, labels, labels == 0)

    assert 8e6 < sum(kept.values()) < 9.5e6
