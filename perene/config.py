"""One `perene.toml`; every key also as an environment variable `PERENE__SECTION__KEY`; unknown keys are errors."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from pathlib import Path

from pydantic import BaseModel, Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from monitoring.lake.lake_root import LakeUrl
from monitoring.settings import MonitoringSettings
from perene.usage_settings import UsageSettings
from registry.errors import ConfigInvalid
from registry.names import check_name
from registry.policy import LedgerPolicy
from registry.signing_settings import SigningSettings
from retrain.places import Places
from retrain.settings import RetrainSettings, WatchSettings
from serving.settings import (
    GpuSettings,
    HookSettings,
    JobSettings,
    LimitSettings,
    QueueSettings,
    ServingSettings,
    WebSettings,
)

FILE = "perene.toml"


class Settings(BaseSettings):
    """The whole configuration. Environment variables win over the file, the file over defaults."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix="PERENE__", env_nested_delimiter="__")

    home: Path = Path(".perene")
    ledger_url: str = ""
    tracking_uri: str = ""
    lake_url: LakeUrl = Field("", description="the event lake: a folder or `s3://bucket/prefix`; empty: `home`/events")
    retention_days: int | None = Field(
        None,
        ge=1,
        le=36_500,
        description="days of events that the lake keeps, whole days by event time; none: for ever",
    )
    worker_host: str = "127.0.0.1"
    worker_port: int = Field(default=8002, ge=1, le=65535)
    runs_at_once: int = Field(
        default=1, ge=1, le=64, description="retraining runs of all models that the worker has under way at once"
    )
    policy: LedgerPolicy = Field(LedgerPolicy(), description="the table `[policy]`: who may promote what")
    signing: SigningSettings = Field(SigningSettings(), description="the table `[signing]`: who vouches for versions")
    usage: UsageSettings = Field(UsageSettings(), description="the table `[usage]`: what rows cost")
    serving: ServingSettings = ServingSettings()
    models: dict[str, WatchSettings] = {}

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment before the file, which comes in as arguments."""
        return env_settings, init_settings

    @property
    def places(self) -> Places:
        """The stores: the configured ones, or the embedded ones in the home folder."""
        return Places(self.home.resolve(), self.ledger_url, self.tracking_uri, lake_url=self.lake_url)


def load(path: Path | None = None, *, home: Path | None = None) -> Settings:
    """Read `path`, or `perene.toml` of this folder if there is one; `home`, a flag, wins over file and environment.

    Raises:
        ConfigInvalid: the file is named but missing, is not TOML, or has a key that does not exist or a value
            of another type; the message has file, line, key and fix.
    """
    found = path or Path(FILE)
    if path is not None and not path.is_file():
        raise ConfigInvalid(f"{path}: there is no such file", where=str(path), hint="name an existing perene.toml")
    try:
        text = found.read_text(encoding="utf-8") if found.is_file() else ""
        data = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigInvalid(f"{found}: not TOML: {error}", where=str(found), hint="mend the line named") from error
    try:
        settings = Settings(**data)
    except ValidationError as error:
        raise _invalid(found, text, error) from error
    for name in settings.models:
        check_name(name)
    return settings if home is None else settings.model_copy(update={"home": home})


def _invalid(path: Path, text: str, error: ValidationError) -> ConfigInvalid:
    first = error.errors(include_url=False, include_input=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    where = _variable(first["loc"]) or f"{path}:{line_of(text, [str(part) for part in first['loc']])}"
    if first["type"] == "extra_forbidden":
        known = _known_keys(first["loc"])
        near = difflib.get_close_matches(str(first["loc"][-1]), known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(sorted(known))}"
        return ConfigInvalid(f"{where}: unknown key '{key}'", where=where, hint=hint)
    return ConfigInvalid(f"{where}: key '{key}': {first['msg']}", where=where, hint="mend this key")


def _variable(location: tuple[int | str, ...]) -> str:
    """The environment variable that set a key, or nothing when the file did."""
    name = "PERENE__" + "__".join(str(part) for part in location).upper()
    return next((key for key in os.environ if key.upper() == name), "")


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    kind: type[BaseModel] = Settings
    tables: dict[str, type[BaseModel]] = {
        "policy": LedgerPolicy,
        "serving": ServingSettings,
        "signing": SigningSettings,
        "retrain": RetrainSettings,
        "monitoring": MonitoringSettings,
        "limits": LimitSettings,
        "queue": QueueSettings,
        "gpu": GpuSettings,
        "web": WebSettings,
        "usage": UsageSettings,
        "jobs": JobSettings,
        "hooks": HookSettings,
    }
    for part in location[:-1]:
        kind = WatchSettings if kind is Settings and part == "models" else tables.get(str(part), kind)
    return list(kind.model_fields)


def line_of(text: str, keys: list[str]) -> int:
    """The 1-based line of the deepest part of a dotted key that the file names; 1 when none is."""
    table: list[str] = []
    best, depth = 1, 0
    for number, line in enumerate(text.splitlines(), start=1):
        header = re.match(r"\s*\[+\s*([^\]]+?)\s*\]+", line)
        entry = re.match(r"\s*([A-Za-z0-9_.\"'-]+)\s*=", line)
        if header:
            table = _split(header[1])
            here = table
        elif entry:
            here = [*table, *_split(entry[1])]
        else:
            continue
        if here == keys[: len(here)] and len(here) > depth:
            best, depth = number, len(here)
    return best


def _split(dotted: str) -> list[str]:
    return [part.strip().strip("\"'") for part in dotted.split(".")]
