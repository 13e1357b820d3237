"""Where the event lake lies: the one place that decides it, for every process and command.

Credentials are no part of it. They come from the environment, as the store's own tools read them, so that the address
may stand in a file, in a process's arguments and in a log.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final
from urllib.parse import parse_qsl, urlsplit

from pydantic import AfterValidator

from registry.errors import ConfigInvalid

__all__ = ["FOLDER", "LakeUrl", "check_lake_url", "lake_root"]

FOLDER: Final = "events"
"""The lake's folder below the home, where nothing else is said."""
_OPTIONS: Final = {
    "s3": ("region", "scheme", "endpoint_override", "tls_ca_file_path"),
    "gs": ("scheme", "endpoint_override", "project_id"),
    "file": (),
}
"""What may follow the question mark; a list of what is allowed, since nobody can list all names of secrets."""


def lake_root(home: Path, url: str = "") -> Path | str:
    """The root of an installation's lake: a folder, or a URL of an object store.

    Raises:
        ConfigInvalid: the URL is of a kind that is not known, not complete, or holds more than an address.
    """
    if not url:
        return home / FOLDER
    check_lake_url(url)
    if url.startswith("file://"):
        return Path(urlsplit(url).path)
    return url.rstrip("/") if "://" in url else Path(url).resolve()


def check_lake_url(url: str) -> None:
    """Refuse what cannot be an address of a lake, without repeating any of it: it may hold a secret.

    Raises:
        ConfigInvalid: see `lake_root`.
    """
    if "://" not in url:
        if url.partition(":")[0].lower() in _OPTIONS and ":" in url:
            # taken for a folder, it would be one of this machine, which nobody looks for
            raise _refused("has no // after its kind")
        return
    kind = url.partition("://")[0]
    if kind not in _OPTIONS:
        raise _refused("is not of a kind that can be opened")
    try:
        parts = urlsplit(url)
        given = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        raise _refused("is not a URL") from None  # its text is in the error
    if "@" in parts.netloc or parts.username is not None:
        raise _refused("holds credentials", "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the store's own")
    if not set(dict(given)) <= set(_OPTIONS[kind]) or parts.fragment:
        allowed = ", ".join(_OPTIONS[kind]) or "none"
        raise _refused("has an option that is not known", f"options of {kind}:// are {allowed}; secrets are none")
    if bool(parts.netloc) is (kind == "file"):
        raise _refused("names no bucket" if kind != "file" else "names a host")


def _refused(
    why: str, hint: str = "options such as region and endpoint_override follow a question mark"
) -> ConfigInvalid:
    return ConfigInvalid(
        f"the event lake's URL {why}",
        where="lake_url",
        expected="a folder, s3://bucket/prefix or gs://bucket/prefix",
        hint=hint,
    )


def _checked(url: str) -> str:
    try:
        check_lake_url(url)
    except ConfigInvalid as error:
        raise ValueError(f"{error.message}; {error.hint}") from None
    return url


LakeUrl = Annotated[str, AfterValidator(_checked)]
"""The type of a setting that says where the lake is."""
