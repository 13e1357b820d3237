"""A ledger that is something else, cannot be written, or is not there: refused by name, nothing made, nothing lost."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from registry.errors import ConfigInvalid, PereneError, StoreUnavailable
from registry.ledger import Ledger


def filled(path: Path) -> Path:
    """A ledger with one move, closed."""
    with closing(Ledger.open(f"sqlite:///{path}")) as ledger:
        ledger.move("toy", expected_revision=0, champion=1, actor="ann", reason="first")
    return path


def text_file(folder: Path) -> str:
    (folder / "notes.txt").write_text("these are notes\n" * 500)
    return f"sqlite:///{folder}/notes.txt"


def under_a_file(folder: Path) -> str:
    (folder / "file").write_text("")
    return f"sqlite:///{folder}/file/ledger.db"


def a_folder(folder: Path) -> str:
    (folder / "ledger.db").mkdir()
    return f"sqlite:///{folder}/ledger.db"


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda folder: "nonsense", ConfigInvalid),
        (lambda folder: "oracle+nothing://x/y", ConfigInvalid),
        (text_file, ConfigInvalid),
        (under_a_file, ConfigInvalid),
        (a_folder, StoreUnavailable),
        (lambda folder: "postgresql+psycopg://nobody:secret@127.0.0.1:1/none", StoreUnavailable),
    ],
    ids=["nonsense", "driver", "text file", "under a file", "folder", "nobody listens"],
)
def test_an_address_that_is_no_ledger_is_refused(
    tmp_path: Path, make: Callable[[Path], str], kind: type[PereneError]
) -> None:
    """By name of the setting, with what to do, without the password; and what is there stays as it is."""
    url = make(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(kind) as caught:
        Ledger.open(url)
    error = caught.value
    assert error.where == "ledger_url"
    assert error.hint or error.expected
    assert "secret" not in str(error) + error.got
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_wrong_password_or_name_is_refused(postgres_url: str) -> None:
    """The server answers, but not to this."""
    base, _, query = postgres_url.partition("?")
    with pytest.raises(StoreUnavailable):
        Ledger.open(f"{base.rsplit('/', 1)[0]}/there_is_no_such_database?{query}")


def test_a_read_only_ledger_is_read_and_says_so_when_written(tmp_path: Path) -> None:
    """Status works; a move is refused as such, and so is a database that would have to be migrated first."""
    path = filled(tmp_path / "ledger.db")
    with closing(Ledger.open(f"sqlite:///file:{path}?mode=ro&uri=true")) as ledger:
        assert ledger.deployments()["toy"].champion == 1
        assert ledger.verify() == []
        with pytest.raises(StoreUnavailable, match="read-only; nothing was written"):
            ledger.move("toy", expected_revision=1, champion=2, actor="ann", reason="r")
        assert ledger.deployments()["toy"].champion == 1
    empty = tmp_path / "empty.db"
    with closing(sqlite3.connect(empty)) as database:
        database.execute("CREATE TABLE theirs (id INTEGER)")
    with pytest.raises(StoreUnavailable, match="read-only"):
        Ledger.open(f"sqlite:///file:{empty}?mode=ro&uri=true")


def test_a_damaged_ledger_is_named_and_not_mended(tmp_path: Path) -> None:
    """Pages of zeros in the middle: no silent half of the truth."""
    path = filled(tmp_path / "ledger.db")
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copy(path, tmp_path / "sound.db")
    data = bytearray(path.read_bytes())
    data[4096:] = bytes(len(data) - 4096)
    path.write_bytes(bytes(data))
    with pytest.raises(StoreUnavailable, match="damaged"), closing(Ledger.open(f"sqlite:///{path}")) as ledger:
        ledger.deployments()
    with closing(Ledger.open(f"sqlite:///{tmp_path / 'sound.db'}")) as ledger:
        assert ledger.deployments()["toy"].champion == 1
