"""The configuration file: every mistake names file, line, key and fix; the environment wins."""

from __future__ import annotations

from pathlib import Path

import pytest

from perene.config import line_of, load
from registry.errors import ConfigInvalid, NameInvalid


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No perene.toml of the place the tests are run from."""
    monkeypatch.chdir(tmp_path)


def _file(folder: Path, text: str) -> Path:
    path = folder / "some.toml"
    path.write_text(text)
    return path


def _refused(folder: Path, text: str) -> ConfigInvalid:
    with pytest.raises(ConfigInvalid) as caught:
        load(_file(folder, text))
    return caught.value


def test_defaults_without_a_file() -> None:
    settings = load()
    assert (settings.home, settings.serving.port, settings.worker_port) == (Path(".perene"), 8000, 8002)
    assert settings.places.ledger_url == f"sqlite:///{Path('.perene/ledger.db').resolve()}"
    assert settings.places.lake == Path(".perene/events").resolve()


def test_file_of_this_folder_is_found(tmp_path: Path) -> None:
    (tmp_path / "perene.toml").write_text("[serving]\nport = 8123\n")
    assert load().serving.port == 8123


@pytest.mark.parametrize(
    ("text", "line", "key", "near"),
    [
        ('# ours\nhome = "x"\nworker_prot = 1\n', 3, "worker_prot", "worker_port"),
        ("[serving]\nauth = true\n\nprot = 9000\n", 4, "serving.prot", "port"),
        ("[servnig]\nport = 9000\n", 1, "servnig", "serving"),
        ("serving = { prot = 9000 }\n", 1, "serving.prot", "port"),
        ("serving.prot = 9000\n", 1, "serving.prot", "port"),
        (
            '[models.m.retrain]\ntarget = "y"\ntrainer = "a:b"\nmargni = 0.1\n',
            4,
            "models.m.retrain.margni",
            "margin",
        ),
        ("[models.m.monitoring]\n\nwindow_row = 5\n", 3, "models.m.monitoring.window_row", "window_rows"),
        ('[models."a.b".retrian]\n', 1, "models.a.b.retrian", "retrain"),
    ],
)
def test_unknown_key_is_named_with_its_line_and_the_nearest(
    tmp_path: Path, text: str, line: int, key: str, near: str
) -> None:
    error = _refused(tmp_path, text)
    assert error.where == f"{tmp_path / 'some.toml'}:{line}"
    assert error.message == f"{error.where}: unknown key '{key}'"
    assert error.hint == f"did you mean '{near}'?"


def test_unknown_key_far_from_all_lists_what_there_is(tmp_path: Path) -> None:
    error = _refused(tmp_path, "[serving]\nzzzz = 1\n")
    assert error.hint.startswith("known keys: ")
    assert "max_rows" in error.hint


@pytest.mark.parametrize(
    ("text", "line", "key"),
    [
        ('[serving]\nauth = true\nport = "eight"\n', 3, "serving.port"),
        ("[serving]\nport = 70000\n", 2, "serving.port"),
        ("worker_port = 0\n", 1, "worker_port"),
        ('[serving]\n\ndevice = "tpu"\n', 3, "serving.device"),
        ("serving = 5\n", 1, "serving"),
        ("models = []\n", 1, "models"),
        # what no calendar and no clock can add to now
        ("retention_days = 1000000000\n", 1, "retention_days"),
        ("[models.m]\nretention_days = 1000000000\n", 2, "models.m.retention_days"),
        ("[serving.explain]\nseconds = 1e308\n", 2, "serving.explain.seconds"),
        ("[serving]\nnative_seconds = inf\n", 2, "serving.native_seconds"),
    ],
)
def test_impossible_value_is_named_without_being_repeated(tmp_path: Path, text: str, line: int, key: str) -> None:
    error = _refused(tmp_path, text)
    assert error.where == f"{tmp_path / 'some.toml'}:{line}"
    assert f"key '{key}'" in error.message
    for value in ("eight", "70000", "tpu"):
        assert f"'{value}'" not in error.message
    assert "input_value" not in error.message


def test_file_that_is_not_toml_names_file_and_line(tmp_path: Path) -> None:
    error = _refused(tmp_path, "home = \n[serving]\n")
    assert error.where == str(tmp_path / "some.toml")
    assert "not TOML" in error.message
    assert "line 1" in error.message


def test_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "some.toml"
    path.write_bytes(b'home = "\xff\xfe"\n')
    with pytest.raises(ConfigInvalid, match="not TOML"):
        load(path)


def test_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="no such file") as caught:
        load(tmp_path / "absent.toml")
    assert caught.value.where == str(tmp_path / "absent.toml")


def test_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _file(tmp_path, "worker_port = 1111\n[serving]\nport = 2222\nmax_rows = 7\n")
    monkeypatch.setenv("PERENE__SERVING__PORT", "3333")
    monkeypatch.setenv("PERENE__WORKER_PORT", "4444")
    settings = load(path)
    assert (settings.serving.port, settings.worker_port) == (3333, 4444)
    assert settings.serving.max_rows == 7, "a variable replaces one key, not its table"


@pytest.mark.parametrize("text", ["", "[serving]\nport = 2222\n"])
def test_impossible_variable_is_named_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """The file is not to be blamed for what the environment says."""
    monkeypatch.setenv("PERENE__SERVING__PORT", "eight")
    error = _refused(tmp_path, text)
    assert error.where == "PERENE__SERVING__PORT"
    assert "some.toml" not in error.message
    assert "eight" not in error.message


def test_unknown_variable_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERENE__SERVING__PROT", "1")
    error = _refused(tmp_path, "[serving]\nport = 2222\n")
    assert error.where == "PERENE__SERVING__PROT"
    assert error.hint == "did you mean 'port'?"


def test_argument_wins_over_the_file(tmp_path: Path) -> None:
    path = _file(tmp_path, 'home = "from-file"\n')
    assert load(path, home=Path("given")).home == Path("given")
    assert load(path, home=None).home == Path("from-file")


@pytest.mark.parametrize("name", ["../x", "UPPER", "a/b", "", "x" * 64])
def test_model_name_is_checked(tmp_path: Path, name: str) -> None:
    with pytest.raises(NameInvalid):
        load(_file(tmp_path, f'[models."{name}".monitoring]\nwindow_rows = 500\n'))


def test_example_is_valid() -> None:
    from examples.flights import __file__ as package

    settings = load(Path(package).parent / "perene.toml")
    assert set(settings.models) == {"flight-time", "flight-late"}
    retrain = settings.models["flight-time"].retrain
    assert retrain is not None
    assert retrain.clock == "event"


def test_line_of_the_deepest_part() -> None:
    text = "[a]\nb = 1\n[c.d]\ne = 2\n"
    assert line_of(text, ["a", "b"]) == 2
    assert line_of(text, ["c", "d", "e"]) == 4
    assert line_of(text, ["c", "d", "f"]) == 3
    assert line_of(text, ["x"]) == 1


SECRET = "hunter2"


@pytest.mark.parametrize(
    "url",
    [
        f"s3://key:{SECRET}@bucket/events",
        f"s3://bucket/events?secret_key={SECRET}",
        f"s3://bucket/events?region=x&{SECRET}=1",
        f"gs://bucket/events#{SECRET}",
        f"https://bucket/{SECRET}",
        f"s3:///{SECRET}",
        f"s3:/bucket/{SECRET}",
        f"GS:bucket/{SECRET}",
    ],
)
def test_a_lake_with_a_secret_in_its_url_is_refused(tmp_path: Path, url: str) -> None:
    """Credentials come from the environment; the refusal repeats nothing of what may be one."""
    error = _refused(tmp_path, f'home = "x"\nlake_url = "{url}"\n')
    assert error.where.endswith("some.toml:2")
    assert "event lake's URL" in str(error)
    assert SECRET not in str(error)


@pytest.mark.parametrize(
    ("url", "root"),
    [
        ("", "HOME/events"),
        ("s3://bucket/a/b?region=eu-west-1", "s3://bucket/a/b?region=eu-west-1"),
        ("gs://bucket/a/", "gs://bucket/a"),
        ("/srv/events", "/srv/events"),
        ("file:///srv/events", "/srv/events"),
        ("elsewhere", "HERE/elsewhere"),
    ],
)
def test_one_place_says_where_the_lake_is(tmp_path: Path, url: str, root: str) -> None:
    """For commands, the server's shipper and the worker alike, whatever folder they are started in."""
    from monitoring.lake.lake_root import lake_root
    from perene.up import serve_program, worker_program
    from retrain.settings import WorkerSettings
    from serving.main import programs
    from serving.settings import ServingSettings

    settings = load(_file(tmp_path, f'home = "h"\nlake_url = "{url}"\n'))
    wanted = root.replace("HOME", str(tmp_path / "h")).replace("HERE", str(tmp_path))
    assert str(settings.places.lake) == wanted
    worker_program(settings)
    worker = WorkerSettings.model_validate_json((tmp_path / "h" / "worker.json").read_text())
    assert str(lake_root(tmp_path / "h", worker.lake_url)) == wanted
    arguments = serve_program(settings).arguments
    told = arguments[arguments.index("--lake") + 1] if url else ""
    shipper = programs(ServingSettings(), tmp_path / "h", "", "", lake_url=told)[1].arguments
    assert shipper[shipper.index("--lake") + 1] == wanted
