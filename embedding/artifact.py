"""Artifacts: immutable directories with a manifest of checksums.

A checkpoint, an index and a release are each one artifact. An artifact is written to a staging directory, flushed to
disk, sealed with its manifest (written last) and renamed into place, so that a directory with the final name is always
complete. `verify_artifact` detects every changed byte.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from embedding.errors import InvalidArtifact

MANIFEST_NAME = "manifest.json"
# Hidden, so that a listing of finished artifacts never includes one that is being written.
STAGING_PREFIX = ".staging-"
_PIECE_BYTES = 2**20


def canonical_json(value: object) -> bytes:
    """Serialise `value` in the canonical form that hashes and byte comparisons rely on."""
    return json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def sha256_of_file(path: Path, *, check: Callable[[], None] = lambda: None) -> str:
    """Return the hex digest of a file of any size; the file is read in pieces, and `check` is called before each."""
    digest = hashlib.sha256()
    piece = memoryview(bytearray(_PIECE_BYTES))
    with path.open("rb", buffering=0) as file:
        check()
        while size := file.readinto(piece):
            digest.update(piece[:size])
            check()
    return digest.hexdigest()


@dataclass(slots=True)
class ArtifactDraft:
    """A directory being filled; `facts` are written to the manifest when the artifact is sealed."""

    path: Path
    facts: dict[str, object] = field(default_factory=dict)


@contextmanager
def new_artifact(
    directory: Path,
    kind: str,
    facts: Mapping[str, object] | None = None,
    *,
    manifest_name: str = MANIFEST_NAME,
) -> Iterator[ArtifactDraft]:
    """Yield a draft to fill, then seal it and publish it as `directory`; on any error nothing remains.

    `kind` names the content and the version of its layout ("akin-index/1"). Raises FileExistsError when `directory`
    exists, since an artifact is never changed in place.
    """
    if directory.exists():
        raise FileExistsError(f"{directory} exists; an artifact is never changed in place, so name another directory")
    directory.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f"{STAGING_PREFIX}{directory.name}-", dir=directory.parent))
    try:
        # mkdtemp creates the directory with mode 0700; an artifact follows the umask like any other directory.
        staging.chmod(0o777 & ~_umask())
        draft = ArtifactDraft(staging, dict(facts or {}))
        yield draft
        _seal(staging, kind, draft.facts, manifest_name)
        # rename() replaces an empty directory created in the meantime, and fails on any other.
        staging.rename(directory)
        _fsync(directory.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            # Renamed, but not flushed: a partly deleted directory must not keep the final name.
            if not staging.exists():
                directory.rename(staging)
        shutil.rmtree(staging, ignore_errors=True)
        raise


def verify_artifact(
    directory: Path, kind: str, *, manifest_name: str = MANIFEST_NAME, check: Callable[[], None] = lambda: None
) -> dict[str, object]:
    """Check every byte of an artifact against its manifest and return its facts.

    `check` is called every megabyte, and ends the verification by raising an exception. Raises InvalidArtifact naming
    the file that is missing, unexpected or changed.
    """
    manifest = read_manifest(directory, kind, manifest_name=manifest_name)
    expected = manifest["files"]
    assert isinstance(expected, dict)
    present = {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}
    present.discard(manifest_name)
    for name in sorted(present ^ expected.keys()):
        problem = "is missing" if name in expected else "does not belong to it"
        raise InvalidArtifact(f"{directory}: file {name!r} {problem}; restore the directory or build it again")
    for name, digest in expected.items():
        if sha256_of_file(directory / name, check=check) != digest:
            raise InvalidArtifact(
                f"{directory}: file {name!r} differs from its checksum; restore the directory or build it again"
            )
    facts = manifest["facts"]
    assert isinstance(facts, dict)
    return facts


def read_manifest(directory: Path, kind: str, *, manifest_name: str = MANIFEST_NAME) -> dict[str, object]:
    """Return the manifest {kind, facts, files, sha256} after checking it against its own checksum.

    The other files are not checked: use `verify_artifact` before relying on them.
    """
    path = directory / manifest_name
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise InvalidArtifact(f"{directory} is not an {kind} directory: it has no {manifest_name}") from None
    except NotADirectoryError:
        raise InvalidArtifact(f"{directory} is a file, not an {kind} directory") from None
    try:
        manifest = json.loads(raw)
        body = {name: manifest[name] for name in ("kind", "facts", "files")}
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidArtifact(f"{path} cannot be read as a manifest: {error!r}") from error
    # Comparing bytes instead of values detects even changed whitespace.
    if raw != _manifest_bytes(body):
        raise InvalidArtifact(f"{path} was changed after it was written; restore it or build it again")
    if body["kind"] != kind:
        raise InvalidArtifact(f"{directory} holds {body['kind']!r}, not the {kind!r} that this version of Akin reads")
    return {**body, "sha256": manifest["sha256"]}


def remove_abandoned_drafts(parent: Path) -> list[Path]:
    """Delete the drafts that killed processes left under `parent`; return the deleted paths.

    Safe only while no other process writes an artifact there.
    """
    abandoned = sorted(parent.glob(f"{STAGING_PREFIX}*")) if parent.exists() else []
    for path in abandoned:
        shutil.rmtree(path, ignore_errors=True)
    return abandoned


def _seal(staging: Path, kind: str, facts: dict[str, object], manifest_name: str) -> None:
    files = sorted(path for path in staging.rglob("*") if path.is_file())
    for path in files:
        _fsync(path)
    digests = {path.relative_to(staging).as_posix(): sha256_of_file(path) for path in files}
    manifest = staging / manifest_name
    manifest.write_bytes(_manifest_bytes({"kind": kind, "facts": facts, "files": digests}))
    _fsync(manifest)
    for path in [*(path for path in staging.rglob("*") if path.is_dir()), staging]:
        _fsync(path)


def _manifest_bytes(body: Mapping[str, object]) -> bytes:
    return canonical_json({**body, "sha256": hashlib.sha256(canonical_json(body)).hexdigest()})


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
