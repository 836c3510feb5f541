"""The columns of an evaluation as one Arrow file, written atomically and verified by a checksum when read."""

import hashlib
import io
import json
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from embedding.artifact import canonical_json
from training.errors import InvalidEvaluation, TrainingError

_FACTS, _CHECKSUM = b"akin", b"akin-checksum"
# In the file's metadata, which Arrow writes twice; the hash is computed with zeros in its place.
_SEAL = re.compile(rb"akin-sha256:([0-9a-f]{64})")
_NO_SEAL = b"akin-sha256:" + b"0" * 64
_REMEDY = "restore it from a backup, or evaluate again"


def write_columns(path: Path, kind: str, facts: Mapping[str, object], columns: Mapping[str, pa.Array]) -> None:
    """Write columns and facts; an existing file is replaced only once the new one is on the disk.

    Raises TrainingError if the file cannot be written.
    """
    plain = canonical_json({"kind": kind, **facts})
    content = _sealed(pa.table(dict(columns)).replace_schema_metadata({_FACTS: plain, _CHECKSUM: _NO_SEAL}))
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    aside = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp creates files with mode 0600, but the service may read the file as another user.
        aside.chmod(0o644)
        aside.replace(path)
        _fsync_folder(path.parent)
    except OSError as error:
        raise TrainingError(
            f"the evaluation {path} cannot be written: {error}; free some disk, and try again"
        ) from error
    finally:
        aside.unlink(missing_ok=True)


def read_columns(path: Path, kind: str) -> tuple[dict[str, Any], pa.Table]:
    """Return facts and columns; raises InvalidEvaluation for a missing or damaged file, or another kind."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise InvalidEvaluation(f"the evaluation {path} is missing; {_REMEDY}") from None
    except OSError as error:
        raise InvalidEvaluation(f"the evaluation {path} cannot be read ({error}); {_REMEDY}") from error
    # Verified before Arrow parses the file, since Arrow does not validate the lengths and offsets in it.
    seals = _SEAL.findall(content)
    if not seals or {seals[0], seals[-1]} != {_checksum(content)}:
        raise InvalidEvaluation(f"the evaluation {path} is not as it was written; {_REMEDY}")
    with pa.ipc.open_file(pa.BufferReader(content)) as reader:
        table = reader.read_all()
    facts = json.loads(table.schema.metadata[_FACTS])
    if facts["kind"] != kind:
        raise InvalidEvaluation(f"{path} holds {facts['kind']!r}, not the {kind!r} that this version of Akin reads")
    return facts, table


def _sealed(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    with pa.ipc.new_file(buffer, table.schema) as writer:
        writer.write_table(table)
    content = buffer.getvalue()
    return content.replace(_NO_SEAL, _NO_SEAL[:-64] + _checksum(content))


def _checksum(content: bytes) -> bytes:
    return hashlib.sha256(_SEAL.sub(_NO_SEAL, content)).hexdigest().encode()


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
