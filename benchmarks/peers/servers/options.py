"""Options of a peer's server, as environment variables: BentoML imports the service by name in its own processes."""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Self, cast, get_args

Runtime = Literal["torch", "onnxruntime"]
_PREFIX = "PEER_"


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """What a server reads, and how it runs the network.

    `files` is a folder of `benchmarks.peers.catalogue.write_files`. Each of the `workers` processes that run the
    network uses `threads` threads.
    """

    files: Path
    runtime: Runtime
    threads: int
    workers: int
    port: int
    k: int = 10

    def to_environment(self) -> dict[str, str]:
        """Return the variables that `from_environment` reads."""
        return {_PREFIX + name.upper(): str(value) for name, value in asdict(self).items()}

    @classmethod
    def from_environment(cls) -> Self:
        """Read the options; raises KeyError for a missing variable, ValueError for an unknown runtime."""
        stored = {name: os.environ[_PREFIX + name.upper()] for name in cls.__dataclass_fields__}
        runtime = stored["runtime"]
        if runtime not in get_args(Runtime):
            raise ValueError(f"{_PREFIX}RUNTIME must be torch or onnxruntime, got {runtime!r}")
        return cls(
            files=Path(stored["files"]),
            runtime=cast(Runtime, runtime),
            threads=int(stored["threads"]),
            workers=int(stored["workers"]),
            port=int(stored["port"]),
            k=int(stored["k"]),
        )
