"""Push the folder, the data source and the dashboard to a Grafana server; repeating it changes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from grafana.dashboard import DATASOURCE_UID, build
from registry.errors import ConfigInvalid, PereneError, StoreUnavailable

FOLDER_UID = "perene"
PROMETHEUS_URL = "http://127.0.0.1:9090"
"""Prometheus beside Grafana on one machine."""
_ABSENT = 404
_CONFLICT = (409, 412)


@dataclass(frozen=True)
class Applied:
    """What is on the server now."""

    url: str
    folder_uid: str
    datasource_uid: str
    dashboard_uid: str
    version: int


def apply(url: str, token: str, *, prometheus_url: str = PROMETHEUS_URL, timeout_s: float = 10.0) -> Applied:
    """Bring a Grafana server up to date.

    Args:
        url: address of the server, as a browser would open it.
        token: service account token that may write dashboards, folders and data sources.
        prometheus_url: address of Prometheus as the Grafana *server* reaches it.
        timeout_s: seconds for each request.

    Raises:
        ConfigInvalid: the address or the token is unusable, or Grafana refused what was sent.
        StoreUnavailable: nothing answers there, or the server failed.
    """
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ConfigInvalid(
            "the Grafana address is not a web address", where="url", expected="http(s)://host[:port]", got="other",
            hint="give the address a browser opens",
        )  # fmt: skip
    if not token:
        raise ConfigInvalid("no Grafana token was given", where="token", expected="a service account token", got="",
                            hint="create one in Grafana: Administration, Service accounts")  # fmt: skip
    # grafana-client brings its own HTTP stack: only this function needs it.
    from grafana_client.api import GrafanaApi
    from grafana_client.client import GrafanaException, GrafanaTimeoutError, TokenAuth

    credential = TokenAuth(token)  # type: ignore[no-untyped-call]
    api = GrafanaApi.from_url(url, credential=credential, timeout=timeout_s)
    try:
        _folder(api)
        _datasource(api, prometheus_url)
        body = {"dashboard": build(), "folderUid": FOLDER_UID, "overwrite": True, "message": "perene grafana apply"}
        answer = api.dashboard.update_dashboard(body)
    except GrafanaTimeoutError as error:
        raise _unreachable(parts.netloc) from error
    except GrafanaException as error:
        raise _refused(int(error.status_code), parts.netloc) from error
    except OSError as error:  # requests-like stacks derive their connection errors from OSError
        raise _unreachable(parts.netloc) from error
    link = f"{url.rstrip('/')}{answer['url']}"
    return Applied(link, FOLDER_UID, DATASOURCE_UID, str(answer["uid"]), int(answer["version"]))


def _folder(api: Any) -> None:
    from grafana_client.client import GrafanaClientError

    try:
        api.folder.create_folder("Perene", uid=FOLDER_UID)
    except GrafanaClientError as error:
        if error.status_code not in _CONFLICT:
            raise
        # 409 and 412: a folder of this uid or name is there; ours only if the uid is.
        api.folder.get_folder(FOLDER_UID)


def _datasource(api: Any, prometheus_url: str) -> None:
    from grafana_client.client import GrafanaClientError

    body = {
        "uid": DATASOURCE_UID, "name": "Perene Prometheus", "type": "prometheus", "access": "proxy",
        "url": prometheus_url, "isDefault": False, "jsonData": {"httpMethod": "POST", "timeInterval": "15s"},
    }  # fmt: skip
    try:
        api.datasource.get_datasource_by_uid(DATASOURCE_UID)
    except GrafanaClientError as error:
        if error.status_code != _ABSENT:
            raise
        api.datasource.create_datasource(body)
    else:
        api.datasource.update_datasource_by_uid(DATASOURCE_UID, body)


def _unreachable(server: str) -> PereneError:
    return StoreUnavailable(f"no Grafana answers at {server}", where="url", expected="a running server",
                            got="no answer", hint="check the address and that Grafana is up")  # fmt: skip


def _refused(status: int, server: str) -> PereneError:
    got = f"HTTP {status}"
    if status in {401, 403}:
        return ConfigInvalid(f"Grafana at {server} refused the token", where="token", got=got,
                             expected="the role Editor or Admin",
                             hint="create a service account token with that role")  # fmt: skip
    if status >= 500:
        return StoreUnavailable(f"Grafana at {server} failed", where="url", expected="2xx", got=got,
                                hint="read Grafana's log, then try again")  # fmt: skip
    return ConfigInvalid(f"Grafana at {server} refused what was sent", where="dashboard", expected="2xx", got=got,
                         hint="Grafana 11 or later is needed")  # fmt: skip
