"""Settings of an installation: the only module that reads the environment."""

import contextlib
import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from dotenv import dotenv_values
from PIL import Image
from pydantic import (
    Field,
    NonNegativeInt,
    PositiveInt,
    SecretStr,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from embedding.runtimes.options import NetworkOptions
from service.errors import InvalidSetting
from service.storage.address import shown_address, shown_media_address, sqlite_address

_PREFIX = "AKIN_"
_MIN_KEY_LENGTH = 16
_MIN_DISTINCT_CHARACTERS = 6
_EXAMPLE_KEY = re.compile(r"change|example|secret|password|replace|your|admin[-_ ]?key", re.IGNORECASE)
# Where Docker and Kubernetes mount secrets: files named like the variables, in lower case.
_SECRETS_DIR = "/run/secrets"
_SECRETS_VARIABLE = "AKIN_SECRETS_DIR"
_DOTENV = ".env"
# Without a default port: browsers omit it.
_ORIGIN = re.compile(
    r"(http://(?!.*:80$)|https://(?!.*:443$))([a-z0-9]([a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\])(:[1-9][0-9]{0,4})?"
)

_DAY = 86_400
Seconds = Annotated[float, Field(gt=0, le=_DAY, allow_inf_nan=False)]


class Settings(BaseSettings):
    """Deployment configuration, read once from AKIN_* variables and .env."""

    # "ignore": one .env also serves Compose; unknown AKIN_* names are warned about at start.
    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, env_file=_DOTENV, env_ignore_empty=True, extra="ignore", frozen=True
    )

    home: Path = Field(Path("akin-data"), description="Folder for all state.")
    database_url: str = Field(
        "", repr=False, description="postgresql://user:password@host:5432/name; empty: SQLite under the home folder."
    )
    media_url: str = Field(
        "", repr=False, description="Folder or fsspec URL of the images; empty: `media` under the home folder."
    )
    host: str = Field("127.0.0.1", description="Address that `akin serve` listens on.")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(8000, description="Port of `akin serve`; 0 selects a free one.")
    max_image_bytes: PositiveInt = Field(10 * 2**20, description="Largest accepted image file, in bytes.")
    max_image_pixels: PositiveInt = Field(50_000_000, description="Largest accepted width × height of an image.")
    release_poll_seconds: Seconds = Field(2.0, description="How often a server checks for a new active release.")
    device: str = Field("auto", description="Device of the network: auto, cpu, cuda or cuda:N.")
    precision: Literal["float32", "bf16"] = Field(
        "float32", description="Precision of the network: float32, or bf16 on a CUDA device."
    )
    runtime: Literal["auto", "onnxruntime", "torch"] = Field(
        "auto",
        description="Library that runs the network: auto, onnxruntime or torch; auto: onnxruntime on a CPU, torch on a "
        "GPU.",
    )
    network_threads: NonNegativeInt = Field(
        0, description="Threads of onnxruntime; 0: as many as torch uses, one per physical core or OMP_NUM_THREADS."
    )
    index_device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Device of the index search: auto, cpu or cuda."
    )
    decode_workers: NonNegativeInt = Field(0, description="Threads that decode images; 0: one per core, at most 16.")
    search_workers: PositiveInt = Field(2, description="Threads that search the index.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Lowest level that is logged: debug, info, warning or error."
    )
    admin_key: SecretStr | None = Field(
        None, description="A key with every scope; unset: the first start creates a key and prints it once."
    )
    public_search: bool | Literal["auto"] = Field(
        "auto", description="Whether searching needs no key; auto: only while the server listens on loopback."
    )
    trusted_proxies: str = Field(
        "",
        description="Addresses and networks of trusted proxies, comma-separated; their X-Forwarded-* headers are used.",
    )
    cors_origins: str = Field(
        "",
        description="Origins of web applications that may use the interface, comma-separated, such as "
        "https://shop.example.com; `*`: all; empty: none.",
    )
    root_path: str = Field("", description="Path prefix under which a gateway exposes this server, such as /akin.")
    max_searches: PositiveInt = Field(
        32, description="Maximum of searches in progress per process; further ones get 503 with Retry-After."
    )
    search_timeout_seconds: Seconds = Field(
        10.0, description="Longest time of a search after its image has arrived; then 503 with Retry-After."
    )
    network_check_seconds: Seconds = Field(
        30.0, description="How often a server runs the network on a test image; a failure makes /readyz return 503."
    )
    body_timeout_seconds: Seconds = Field(
        30.0, description="Longest pause in a request's body, and longest total time for a search's body."
    )
    drain_seconds: Annotated[float, Field(ge=0, le=_DAY, allow_inf_nan=False)] = Field(
        0.0, description="How long a server still accepts requests after SIGTERM, while /readyz returns 503."
    )
    shutdown_seconds: Seconds = Field(30.0, description="How long a stopping server waits for requests in progress.")
    min_free_bytes: NonNegativeInt = Field(
        256 * 2**20, description="Less free space under the home folder makes /readyz report the disk."
    )
    metrics_port: Annotated[int, Field(ge=0, le=65535)] | None = Field(
        None, description="Port for /metrics without a key; empty: only /metrics of the server, with an admin key."
    )
    metrics_host: str = Field("127.0.0.1", description="Address that the metrics port listens on.")
    audit_retention_days: Annotated[int, Field(ge=0, le=36_500)] = Field(
        365, description="Days for which the audit log is kept; 0: for ever."
    )
    auto_migrate: bool = Field(
        True, description="Migrate the tables at every start; off: only `akin migrate` changes them."
    )
    max_upload_bytes: PositiveInt = Field(
        2 * 2**30, description="Largest accepted upload (an archive or a label file), in bytes."
    )
    release_retention: NonNegativeInt = Field(
        5, description="Releases kept in addition to the active and the previous one."
    )
    worker_takeover_seconds: Seconds = Field(
        60.0, description="Age of a worker's heartbeat at which other workers take over its work."
    )
    training_processes: NonNegativeInt = Field(
        0, description="Processes that train together (torchrun); 0: one per GPU, at least one."
    )
    demo_data: Path | None = Field(None, description="Images for `akin demo`; empty: a drawn sample.")

    @field_validator("max_image_pixels")
    @classmethod
    def _within_pillows_limit(cls, value: int) -> int:
        hard_limit = Image.MAX_IMAGE_PIXELS or 0
        if value > hard_limit:
            raise ValueError(f"at most {hard_limit} pixels can be decoded safely")
        return value

    @field_validator("admin_key")
    @classmethod
    def _no_example_key(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        secret = value.get_secret_value()
        if not secret:
            raise ValueError("the key is empty; unset it to have one created at the first start")
        is_short = len(secret) < _MIN_KEY_LENGTH or len(set(secret)) < _MIN_DISTINCT_CHARACTERS
        if is_short or _EXAMPLE_KEY.search(secret) or not secret.isascii() or not secret.isprintable():
            raise ValueError(
                f"the key can be guessed: use {_MIN_KEY_LENGTH} or more random ASCII characters, such as those of "
                "`openssl rand -hex 24`"
            )
        return value

    @field_validator("public_search", mode="wrap")
    @classmethod
    def _true_false_or_auto(cls, value: object, check: ValidatorFunctionWrapHandler) -> object:
        try:
            return check(value)
        except ValidationError:  # it lists one reason per type
            raise ValueError("write true, false or auto") from None

    @field_validator("trusted_proxies")
    @classmethod
    def _valid_networks(cls, value: str) -> str:
        for name in filter(None, (part.strip() for part in value.split(","))):
            try:
                ipaddress.ip_network(name)
            except ValueError:
                raise ValueError(
                    f"{name!r} is neither an address nor a network; write, for example, 10.0.0.7 or 172.16.0.0/12"
                ) from None
        return value

    @field_validator("cors_origins")
    @classmethod
    def _exact_origins(cls, value: str) -> str:
        origins = [part.strip() for part in value.split(",") if part.strip()]
        if "*" in origins and len(origins) > 1:
            raise ValueError("* permits every origin; write it alone, or name the origins")
        for origin in origins:
            # In the form in which browsers send it, for it is compared as text.
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"{origin!r} is not an origin; write the scheme and the host in lower case, without a path or a "
                    "trailing slash, and a port unless it is the scheme's own, such as https://shop.example.com or "
                    "http://localhost:3000"
                )
        return ", ".join(origins)

    @field_validator("root_path")
    @classmethod
    def _without_trailing_slash(cls, value: str) -> str:
        prefix = value.rstrip("/")
        if prefix and not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", prefix):
            raise ValueError(
                "a path prefix begins with a slash and contains letters, digits and . _ ~ -, such as /akin"
            )
        return prefix

    @field_validator("demo_data", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return value or None

    @property
    def permitted_origins(self) -> tuple[str, ...]:
        """Origins of web applications that may use the interface; `*` for all."""
        return tuple(self.cors_origins.split(", ")) if self.cors_origins else ()

    @property
    def database_address(self) -> str:
        """SQLAlchemy address of the database."""
        return self.database_url or sqlite_address(self.home / "akin.db")

    @property
    def database_address_shown(self) -> str:
        """Address of the database without passwords."""
        return shown_address(self.database_address)

    @property
    def media_address(self) -> str:
        """Folder or URL of the images."""
        return self.media_url or str((self.home / "media").absolute())

    @property
    def releases_dir(self) -> Path:
        """Folder of the releases."""
        return self.home / "releases"

    @property
    def checkpoints_dir(self) -> Path:
        """Folder of the checkpoints that Akin has trained."""
        return self.home / "checkpoints"

    @property
    def reports_dir(self) -> Path:
        """Folder of import reports."""
        return self.home / "reports"

    @property
    def jobs_address(self) -> str:
        """SQLAlchemy address of the tables of DBOS: the database of Akin, or with SQLite a separate file."""
        return self.database_url or sqlite_address(self.home / "jobs.db")

    @property
    def operations_dir(self) -> Path:
        """Folder with one folder per operation, for the files of its steps."""
        return self.home / "operations"

    @property
    def evaluations_dir(self) -> Path:
        """Folder of evaluation sets and of the results of each query."""
        return self.home / "evaluations"

    @property
    def workers_dir(self) -> Path:
        """Folder of the locks that running workers hold."""
        return self.home / "workers"

    @property
    def network_options(self) -> NetworkOptions:
        """Where and how networks run."""
        return NetworkOptions(
            self.device, self.precision, self.runtime, self.cache_dir / "networks", self.network_threads
        )

    @property
    def cache_dir(self) -> Path:
        """Folder of what can be recomputed: decoded images, features, exported networks, copies of remote files."""
        return self.home / "cache"


def load_settings() -> Settings:
    """Read the environment; raises InvalidSetting with the variable, its value and what is allowed."""
    given = {**_in_dotenv(), **{name.upper(): value for name, value in os.environ.items()}}
    _refuse_empty_key(given)
    secrets_dir = _secrets_dir(given)
    try:
        return Settings(_secrets_dir=secrets_dir)
    except ValidationError as error:
        reasons = [
            f"{_PREFIX}{str(detail['loc'][0]).upper()}={_shown(detail)}: {detail['msg']}" for detail in error.errors()
        ]
        raise InvalidSetting("; ".join(reasons)) from error
    except SettingsError as error:
        # Typically the user of a container may not read the files.
        reason = f"{_unreadable_secret(secrets_dir)} cannot be read; check its permissions ({error.__cause__})"
        raise InvalidSetting(reason) from error


def unknown_settings() -> list[str]:
    """Return the AKIN_* variables in the environment and .env that this version does not know."""
    try:
        named = set(_in_dotenv()).union(os.environ)
    except InvalidSetting:  # load_settings reports it
        named = set(os.environ)
    known = _known_names()
    return sorted(name for name in named if name.upper().startswith(_PREFIX) and name.upper() not in known)


def _known_names() -> set[str]:
    return {_PREFIX + name.upper() for name in Settings.model_fields} | {_SECRETS_VARIABLE}


def _in_dotenv() -> dict[str, str | None]:
    """Return the variables in .env, with names in upper case: case does not matter."""
    try:
        return {name.upper(): value for name, value in dotenv_values(_DOTENV).items()}
    except (OSError, UnicodeDecodeError) as error:
        reason = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise InvalidSetting(f"{Path(_DOTENV).absolute()} cannot be read: {reason}") from error


def _refuse_empty_key(given: Mapping[str, str | None]) -> None:
    """Refuse AKIN_ADMIN_KEY= without a value, which pydantic would treat as not set."""
    name = f"{_PREFIX}ADMIN_KEY"
    if given.get(name) == "":
        raise InvalidSetting(f"{name} is empty; set a value, or unset it to have a key created at the first start")


def _secrets_dir(given: Mapping[str, str | None]) -> str | None:
    """Return the folder of secrets; None if the default folder does not exist, as outside containers."""
    named = given.get(_SECRETS_VARIABLE)
    with contextlib.suppress(OSError):  # a parent folder may be unreadable
        if Path(named or _SECRETS_DIR).is_dir():
            return named or _SECRETS_DIR
    if named:
        raise InvalidSetting(f"{_SECRETS_VARIABLE}={named}: no such folder; correct it or unset it")
    return None


def _unreadable_secret(secrets_dir: str | None) -> str:
    """Return the secret file that cannot be read, or the folder if all files can be."""
    known = _known_names()
    try:
        for path in sorted(Path(secrets_dir or _SECRETS_DIR).iterdir()):
            if path.name.upper() not in known:
                continue
            try:
                path.read_text()
            except (OSError, UnicodeDecodeError):
                return f"the secret {path}"
    except OSError:
        pass  # the folder itself is unreadable
    return f"a secret in {secrets_dir}"


def _shown(detail: ErrorDetails) -> str:
    name = detail["loc"][0]
    if name == "media_url":
        return shown_media_address(str(detail["input"]))
    return "***" if name in ("admin_key", "database_url") else str(detail["input"])
