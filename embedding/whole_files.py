"""Atomic and durable writing of files."""

import os
import uuid
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# A disk writes several files at once faster than one after the other.
_NUM_SYNC_THREADS = 8


def write_whole(path: Path, content: bytes) -> None:
    """Write a file atomically and durably; its parent directories are created.

    After an interruption, a power cut included, `path` has either its old or its new content.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        # The new directory entry must survive a power cut as well.
        _sync(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_all_whole(files: Mapping[Path, bytes]) -> None:
    """Write files as `write_whole` does, faster than one by one; an error may leave some of them written."""
    temporaries: dict[Path, Path] = {}
    try:
        for folder in {path.parent for path in files}:
            folder.mkdir(parents=True, exist_ok=True)
        for path, content in files.items():
            temporaries[path] = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
            temporaries[path].write_bytes(content)
        with ThreadPoolExecutor(_NUM_SYNC_THREADS, thread_name_prefix="sync") as pool:
            _wait(pool.map(_sync, temporaries.values()))
            for path, temporary in temporaries.items():
                temporary.replace(path)
            _wait(pool.map(_sync, {path.parent for path in files}))
    except BaseException:
        for temporary in temporaries.values():
            temporary.unlink(missing_ok=True)
        raise


def _wait(results: Iterable[None]) -> None:
    for _ in results:
        pass


def _sync(path: Path) -> None:
    """Wait until a file, or the entries of a directory, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
