import numpy as np
import pytest
import torch

from training.errors import InvalidEmbeddings
from training.evaluation.inputs import as_embeddings, as_labels

CPU = torch.device("cpu")
ROWS = np.eye(4, dtype=np.float32)


def changed(value):
    rows = ROWS.copy()
    rows[2, 2] = value
    return rows


def test_float32_is_not_copied():
    assert as_embeddings(ROWS.copy(), "query", CPU).dtype == torch.float32
    rows = ROWS.copy()
    assert as_embeddings(rows, "query", CPU).data_ptr() == rows.ctypes.data


@pytest.mark.parametrize("dtype", [np.float16, np.float64, torch.bfloat16, torch.float64])
def test_other_floats_become_float32(dtype):
    rows = torch.from_numpy(ROWS).to(dtype) if isinstance(dtype, torch.dtype) else ROWS.astype(dtype)

    assert torch.equal(as_embeddings(rows, "query", CPU), torch.eye(4))


@pytest.mark.parametrize("view", [ROWS[::-1], ROWS.T, ROWS.astype(">f4")], ids=["reversed", "transposed", "big endian"])
def test_any_memory_layout_is_read(view):
    assert as_embeddings(view, "query", CPU).tolist() == view.tolist()


def test_gradients_are_detached():
    assert not as_embeddings(torch.eye(4, requires_grad=True), "query", CPU).requires_grad


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (ROWS[0], r"query embeddings have shape \(4,\); want"),
        (ROWS[:0], "empty"),
        (ROWS[:, :0], "empty"),
        (ROWS.astype(np.int64), "type int64; want float32"),
        (torch.eye(4).long(), "type torch.int64; want float32"),
        (changed(np.nan), "row 2 of the query embeddings holds NaN"),
        (changed(np.inf), "row 2 of the query embeddings holds NaN or infinity"),
        (changed(0), "row 2 of the query embeddings has length 0 .*normalise"),
        (changed(3), "row 2 of the query embeddings has length 3 .*normalise"),
    ],
)
def test_refuses_invalid_embeddings(rows, message):
    with pytest.raises(InvalidEmbeddings, match=message) as caught:
        as_embeddings(rows, "query", CPU)

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        [0, 5, 2**24 - 1],
        np.array([0, 5, 2**24 - 1], np.int32),
        np.array([0, 5, 2**24 - 1], np.uint64),
        np.array([0, 5, 2**24 - 1], np.float32),
        np.array([0, 5, 2**24 - 1], np.float64),
        torch.tensor([0, 5, 2**24 - 1]),
        torch.tensor([0, 5, 2**24 - 1], dtype=torch.float64),
    ],
)
def test_labels_become_int64(values):
    labels = as_labels(values, "query", 3)

    assert labels.dtype == np.int64
    assert labels.tolist() == [0, 5, 2**24 - 1]


@pytest.mark.parametrize("value", [2**31, 2**40 + 1, 2**63 - 1, -(2**63)])
def test_large_labels_keep_every_bit(value):
    assert as_labels([value], "query", 1).tolist() == [value]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1], r"shape \(1,\) for 2 embeddings"),
        ([[1], [2]], r"shape \(2, 1\) for 2 embeddings"),
        ([[1], [2, 3]], "no list of integers"),
        (["melon", "fig"], "number the classes"),
        ([1.0, 2.5], "query label 2.5 of image 1"),
        ([1.0, np.nan], "query label nan of image 1"),
        (np.array([1, 2**24], np.float32), "query label 16777216.0 of image 1"),
        (np.array([1, 2**63], np.uint64), "query label 9223372036854775808 of image 1"),
    ],
)
def test_refuses_labels_that_int64_cannot_hold(values, message):
    with pytest.raises(InvalidEmbeddings, match=message) as caught:
        as_labels(values, "query", 2)

    assert "\n" not in str(caught.value)
