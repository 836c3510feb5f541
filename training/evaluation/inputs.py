"""Validation and conversion of embeddings and labels."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.errors import InvalidEmbeddings

Embeddings = NDArray[np.floating] | Tensor
Labels = NDArray[np.generic] | Tensor | Sequence[int]

# bf16 networks give lengths that are off by some thousandths; rows that are not normalised are off by far more.
_LENGTH_TOLERANCE = 1e-2


def as_embeddings(values: Embeddings, name: str, device: torch.device) -> Tensor:
    """Return float32 [N, D] on the device, without a copy if possible.

    `name` names the embeddings in messages. Raises InvalidEmbeddings unless every row is finite and of length 1.
    """
    shape = tuple(values.shape)
    if len(shape) != 2:
        raise InvalidEmbeddings(f"{name} embeddings have shape {shape}; want [images, dimensions]")
    if 0 in shape:
        raise InvalidEmbeddings(f"{name} embeddings are empty: shape {shape}; give at least one image")
    if isinstance(values, np.ndarray):
        if values.dtype.kind != "f":
            raise InvalidEmbeddings(f"{name} embeddings have type {values.dtype}; want float32")
        converted = np.ascontiguousarray(values, np.float32)
        # torch warns about read-only memory, such as a mapped file.
        values = torch.from_numpy(converted if converted.flags.writeable else converted.copy())
    elif not values.is_floating_point():
        raise InvalidEmbeddings(f"{name} embeddings have type {values.dtype}; want float32")
    embeddings_ND = values.detach().to(device, torch.float32)
    _check_lengths(embeddings_ND, name)
    return embeddings_ND


def _check_lengths(embeddings_ND: Tensor, name: str) -> None:
    """Check the rows by their lengths, without a second array of the embeddings' size."""
    lengths_N = torch.linalg.vector_norm(embeddings_ND, dim=1)
    broken_N = ~((lengths_N - 1).abs() <= _LENGTH_TOLERANCE)
    num_broken = int(broken_N.sum())
    if num_broken == 0:
        return
    row = int(broken_N.int().argmax())
    length = float(lengths_N[row])
    if not np.isfinite(length):
        what = f"holds NaN or infinity (with {num_broken - 1} other bad rows); look for a diverged or overflown network"
    else:
        what = f"has length {length:.4g} (with {num_broken - 1} other bad rows); normalise rows to length 1"
    raise InvalidEmbeddings(f"row {row} of the {name} embeddings {what}")


def as_labels(values: Labels, name: str, num_images: int) -> NDArray[np.int64]:
    """Return int64 [N]; raises InvalidEmbeddings for another length or values that int64 cannot represent."""
    if isinstance(values, Tensor):
        detached = values.detach().cpu()
        values = (detached.float() if detached.dtype == torch.bfloat16 else detached).numpy()
    try:
        labels = np.asarray(values)
    except ValueError as error:
        raise InvalidEmbeddings(f"{name} labels are no list of integers; give one integer per image") from error
    if labels.shape != (num_images,):
        raise InvalidEmbeddings(
            f"{name} labels have shape {labels.shape} for {num_images} embeddings; give one label per image"
        )
    _check_integers(labels, name)
    return labels.astype(np.int64, copy=False)


def _check_integers(labels: NDArray[np.generic], name: str) -> None:
    if np.can_cast(labels.dtype, np.int64):
        return
    if np.issubdtype(labels.dtype, np.unsignedinteger):
        bad = labels > np.uint64(np.iinfo(np.int64).max)
    elif np.issubdtype(labels.dtype, np.floating):
        # Larger floats cannot represent all integers: different classes may already have become one.
        first_unsafe = 2 / float(np.finfo(labels.dtype.name).eps)
        bad = ~((np.abs(labels) < first_unsafe) & (labels == np.floor(labels)))
    else:
        raise InvalidEmbeddings(f"{name} labels have type {labels.dtype}; number the classes with integers")
    if bad.any():
        row = int(bad.argmax())
        raise InvalidEmbeddings(
            f"{name} label {labels[row].item()} of image {row} is not an int64; number the classes again"
        )
