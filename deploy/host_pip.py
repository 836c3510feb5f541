"""Write down how pip is set up on this host, for a build that shall install from the same places.

    python3 deploy/host_pip.py FOLDER

FOLDER/pip.conf     where to install from: all configuration files and PIP_* variables together, certificates left out
FOLDER/mounts       the folders and files of this host that it names, one a line: a build has to see them there
FOLDER/ca_bundle    the certificates that are trusted here; absent where none were found
"""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

# What says where packages come from. Their values are lists, separated by blanks.
_PLACES = ("index-url", "extra-index-url", "find-links", "constraint", "trusted-host")
_PLAIN = ("timeout", "default-timeout", "retries", "proxy", "no-index", "pre", "prefer-binary")
_CERTIFICATE_VARIABLES = ("PIP_CERT", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE")
_CERTIFICATE_FILES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")


def pip_settings(listing: str) -> dict[str, str]:
    """Return the settings of `pip config list`; what is said for `install`, then in the environment, goes before."""
    found: dict[str, tuple[int, str]] = {}
    for line in listing.splitlines():
        name, _, value = line.partition("=")
        section, _, key = name.rpartition(".")
        rank = {"global": 0, "install": 1, ":env:": 2}.get(section)
        # pip shows values as Python would: quoted.
        words = shlex.split(value)
        if rank is not None and words and rank >= found.get(key, (0, ""))[0]:
            found[key] = (rank, " ".join(words[0].split()))
    return {key: value for key, (_, value) in found.items()}


def local_paths(settings: dict[str, str]) -> list[Path]:
    """Return what exists on this host of the places named; for a local index its parent, where its files may lie."""
    paths: list[Path] = []
    for key in _PLACES:
        for place in settings.get(key, "").split():
            parts = urlsplit(place)
            path = Path(unquote(parts.path)) if parts.scheme == "file" else Path(place)
            if parts.scheme not in ("", "file") or not path.is_absolute() or not path.exists():
                continue
            paths.append(path.parent if key in ("index-url", "extra-index-url") else path)
    return sorted(set(paths))


def ca_bundle(settings: dict[str, str], environment: dict[str, str]) -> Path | None:
    """Return the file with the certificates that this host trusts."""
    named = [settings.get("cert", ""), *(environment.get(name, "") for name in _CERTIFICATE_VARIABLES)]
    return next((Path(name) for name in [*named, *_CERTIFICATE_FILES] if name and Path(name).is_file()), None)


def main(folder: Path) -> None:
    """Write the three files."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    settings = pip_settings(done.stdout)
    lines = [f"{key} = {settings[key]}" for key in (*_PLACES, *_PLAIN) if key in settings]
    (folder / "pip.conf").write_text("\n".join(["[global]", *lines]) + "\n", encoding="utf-8")
    (folder / "mounts").write_text("".join(f"{path}\n" for path in local_paths(settings)), encoding="utf-8")
    certificates = ca_bundle(settings, dict(os.environ))
    if certificates is not None:
        shutil.copyfile(certificates, folder / "ca_bundle")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
