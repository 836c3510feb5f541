"""Checkpoints: a model with everything needed to use it, in one directory.

weights.safetensors   the network's weights (never pickle)
golden.safetensors    encoded images, and the embeddings the model must produce for them
model.json            architecture, preprocessing, metrics, provenance; checksums of the other two
"""

import contextlib
import logging
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from embedding.artifact import new_artifact, verify_artifact
from embedding.decoding import decode_image
from embedding.embedder import Embedder
from embedding.errors import EmbeddingError, ExportFailed, InvalidCheckpoint
from embedding.golden import check_golden_samples, golden_images
from embedding.model import Architecture, EmbeddingModel, create_model
from embedding.preprocessing import Preprocessing
from embedding.runtimes.choice import choose_runtime
from embedding.runtimes.exported import NetworkToExport, exported_network
from embedding.runtimes.options import NetworkOptions

log = logging.getLogger(__name__)

KIND = "akin-checkpoint/1"
MODEL_FILE = "model.json"  # the manifest of a checkpoint
WEIGHTS_NAME = "weights.safetensors"
GOLDEN_NAME = "golden.safetensors"


@dataclass(frozen=True, slots=True)
class CheckpointFacts:
    """The content of a checkpoint's model.json."""

    architecture: Architecture
    preprocessing: Preprocessing
    space_id: str
    metrics: Mapping[str, object]
    provenance: Mapping[str, object]


def save_checkpoint(
    directory: Path,
    model: EmbeddingModel,
    preprocessing: Preprocessing,
    *,
    metrics: Mapping[str, object] | None = None,
    provenance: Mapping[str, object] | None = None,
) -> CheckpointFacts:
    """Write the checkpoint `directory` atomically.

    The golden embeddings are computed in float32 on the CPU. `provenance` describes the origin of the weights;
    versions and the time are added to it. Raises FileExistsError when `directory` exists, and OSError.
    """
    model = _copy_on_cpu(model)
    embedder = Embedder(model, preprocessing, NetworkOptions("cpu"))
    images = golden_images()
    golden = {f"image_{number}": _as_tensor(image) for number, image in enumerate(images)}
    golden["embeddings"] = torch.from_numpy(embedder.embed([decode_image(image) for image in images]))
    facts = CheckpointFacts(
        architecture=model.architecture,
        preprocessing=preprocessing,
        space_id=embedder.space_id,
        metrics=dict(metrics or {}),
        provenance={**_build_facts(), **(provenance or {})},
    )
    try:
        with new_artifact(directory, KIND, _facts_json(facts), manifest_name=MODEL_FILE) as draft:
            save_file({name: t.contiguous() for name, t in model.state_dict().items()}, draft.path / WEIGHTS_NAME)
            save_file(golden, draft.path / GOLDEN_NAME)
    except SafetensorError as error:
        # On a full disk safetensors does not raise OSError.
        raise OSError(f"the checkpoint {directory} cannot be written: {error}") from error
    return facts


def read_checkpoint_facts(directory: Path) -> CheckpointFacts:
    """Verify the checksums of a checkpoint and return its facts, without building the model."""
    facts = verify_artifact(directory, KIND, manifest_name=MODEL_FILE)
    try:
        stored = {name: _mapping(facts[name]) for name in ("architecture", "preprocessing", "metrics", "provenance")}
        space_id = str(facts["space_id"])
    except (KeyError, TypeError) as error:
        raise InvalidCheckpoint(f"{directory / MODEL_FILE} lacks {error}") from error
    return CheckpointFacts(
        architecture=Architecture.from_json(stored["architecture"]),
        preprocessing=Preprocessing.from_json(stored["preprocessing"]),
        space_id=space_id,
        metrics=stored["metrics"],
        provenance=stored["provenance"],
    )


def load_model(directory: Path) -> tuple[EmbeddingModel, CheckpointFacts]:
    """Verify and load the weights on the CPU, in evaluation mode; golden samples are not checked here."""
    facts = read_checkpoint_facts(directory)
    model, _ = create_model(facts.architecture, pretrained=False)
    try:
        model.load_state_dict(load_file(directory / WEIGHTS_NAME))
    except (SafetensorError, RuntimeError) as error:
        raise InvalidCheckpoint(f"{directory / WEIGHTS_NAME} does not fit the architecture: {error}") from error
    return model, facts


def load_embedder(
    directory: Path,
    options: NetworkOptions | None = None,
    *,
    batch_size: int | None = None,
    exported: Path | None = None,
) -> Embedder:
    """Load a checkpoint and check its golden samples on this device, precision and runtime.

    `exported` is a file of its network that was exported before. Raises InvalidArtifact for changed files,
    InvalidCheckpoint when the samples differ, UnsupportedDevice, UnsupportedRuntime and ExportFailed.
    """
    model, facts = load_model(directory)
    embedder = Embedder(model, facts.preprocessing, options, batch_size=batch_size, exported=exported)
    if embedder.space_id != facts.space_id:
        raise InvalidCheckpoint(f"{directory}: space id is {embedder.space_id}, model.json says {facts.space_id}")
    golden = load_file(directory / GOLDEN_NAME)
    expected = golden.pop("embeddings").numpy()
    images = [golden[f"image_{number}"].numpy().tobytes() for number in range(len(golden))]
    try:
        check_golden_samples(embedder, images, expected, source=str(directory))
    except InvalidCheckpoint:
        raise
    except EmbeddingError as error:
        raise InvalidCheckpoint(f"{directory}: a golden image cannot be decoded: {error}") from error
    return embedder


@contextmanager
def exported_checkpoint(directory: Path, options: NetworkOptions) -> Iterator[Path | None]:
    """Yield the file of the checkpoint's exported network, or None if torch runs networks with these options.

    Raises InvalidCheckpoint, UnsupportedDevice, UnsupportedRuntime, and ExportFailed if the runtime is onnxruntime.
    """
    if choose_runtime(options).name == "torch":
        yield None
        return
    model, facts = load_model(directory)
    with contextlib.ExitStack() as stack:
        wanted = NetworkToExport(model, facts.preprocessing, facts.space_id)
        file: Path | None = None
        try:
            file = stack.enter_context(exported_network(wanted, options.cache_dir))
        except ExportFailed as error:
            if options.runtime != "auto":
                raise
            log.warning("torch will run the network instead of ONNX Runtime: %s", error)
        yield file


def _copy_on_cpu(model: EmbeddingModel) -> EmbeddingModel:
    """Copy a model to the CPU, so that saving it neither moves nor changes the model in training."""
    copy, _ = create_model(model.architecture, pretrained=False)
    copy.load_state_dict({name: tensor.detach().cpu() for name, tensor in model.state_dict().items()})
    return copy


def _facts_json(facts: CheckpointFacts) -> dict[str, object]:
    return {
        "architecture": facts.architecture.to_json(),
        "preprocessing": facts.preprocessing.to_json(),
        "space_id": facts.space_id,
        "metrics": dict(facts.metrics),
        "provenance": dict(facts.provenance),
    }


def _build_facts() -> dict[str, object]:
    return {
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _as_tensor(data: bytes) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(data, np.uint8).copy())


def _mapping(value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise TypeError(f"expected an object, got {value!r}")
    return value
