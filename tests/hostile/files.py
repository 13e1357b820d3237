"""Bundles whose files are hostile around a sound graph: each a function that spoils a folder, with its reason."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from registry.bundle import MANIFEST, seal


@dataclass(frozen=True)
class HostileFile:
    """What is done to a sound bundle of a classification, and a part of the refusal."""

    name: str
    reason: str
    spoil: Callable[[Path], object]


class Bomb:
    """Touches a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.canary), "w")


def canary_of(folder: Path) -> Path:
    """The file that only hostile code would make."""
    return folder.parent / f"{folder.name}.canary"


def _sealed(change: Callable[[Path], object]) -> Callable[[Path], None]:
    """Change files, then write a manifest that holds: digests prove who sent a bundle, not that it is sound."""

    def spoil(folder: Path) -> None:
        change(folder)
        seal(folder)

    return spoil


def _json(name: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        value = json.loads((folder / name).read_text())
        changed = change(value)
        (folder / name).write_text(json.dumps(value if changed is None else changed))

    return _sealed(spoil)


def _bytes(name: str, data: bytes) -> Callable[[Path], None]:
    return _sealed(lambda folder: (folder / name).write_bytes(data))


def _cut(name: str) -> Callable[[Path], None]:
    return _sealed(lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-50]))


def _golden(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        change(pd.read_parquet(folder / "golden.parquet")).to_parquet(folder / "golden.parquet", index=False)

    return _sealed(spoil)


def _flip(folder: Path) -> None:
    data = bytearray((folder / "model.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "model.onnx").write_bytes(bytes(data))


def _link(folder: Path) -> None:
    shutil.move(folder / "model.onnx", folder.parent / f"{folder.name}.elsewhere")
    (folder / "model.onnx").symlink_to(folder.parent / f"{folder.name}.elsewhere")


def _fifo(folder: Path) -> None:
    (folder / "golden.parquet").unlink()
    os.mkfifo(folder / "golden.parquet")


def _directory(folder: Path) -> None:
    (folder / "card.md").unlink()
    (folder / "card.md").mkdir()


def _climbing(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"]["../../escaped"] = "0" * 64
    (folder / MANIFEST).write_text(json.dumps(manifest))


def _pickled(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(pickle.dumps(Bomb(canary_of(folder))))
    seal(folder)


def _pickled_rows(folder: Path) -> None:
    (folder / "golden.parquet").write_bytes(pickle.dumps(Bomb(canary_of(folder))))
    seal(folder)


def _pickle_beside(folder: Path) -> None:
    (folder / "model.joblib").write_bytes(pickle.dumps(Bomb(canary_of(folder))))


def _pickle_instead(folder: Path) -> None:
    (folder / "model.onnx").unlink()
    _pickle_beside(folder)
    seal(folder)


def _lying_rows(folder: Path) -> None:
    """A footer that promises 10^18 rows (the count is a zigzag varint in Thrift)."""
    data = (folder / "golden.parquet").read_bytes()
    footer = int.from_bytes(data[-8:-4], "little")
    start = len(data) - 8 - footer
    # field 3 of FileMetaData (num_rows, i64): 0x16 after the schema
    at = data.index(b"\x16\x40", start)
    grown = data[:at] + b"\x16\x80\x80\x80\x80\x80\x80\x80\x80\x0e" + data[at + 2 :]
    grown = grown[:-8] + (footer + 8).to_bytes(4, "little") + b"PAR1"
    (folder / "golden.parquet").write_bytes(grown)
    seal(folder)


def _column(field: str, value: Any) -> Callable[[Path], None]:
    return _json("contract.json", lambda contract: contract["columns"][0].__setitem__(field, value))


FILES: list[HostileFile] = [
    HostileFile("a flipped bit", "sha256 differs", _flip),
    HostileFile("another digest", "sha256 differs", lambda f: (f / "card.md").write_text("# other\n")),
    HostileFile("a missing file", "card.md.*missing", lambda f: (f / "card.md").unlink()),
    HostileFile("a link", "model.onnx.*plain file", _link),
    HostileFile("a pipe", "golden.parquet.*plain file", _fifo),
    HostileFile("a folder", "card.md.*plain file", _directory),
    HostileFile("a file too many", "evil.so.*does not belong", lambda f: (f / "evil.so").write_bytes(b"\x7fELF")),
    HostileFile("a folder too many", "does not belong", lambda f: (f / "manifest.d").mkdir()),
    HostileFile("a link too many", "does not belong", lambda f: (f / "manifest.x").symlink_to("/etc/passwd")),
    HostileFile("a path in the manifest", "exactly the bundle's files", _climbing),
    HostileFile("a manifest that is a list", "not a JSON object", lambda f: (f / MANIFEST).write_text("[]")),
    HostileFile("a manifest of 100,000 brackets", "not JSON", lambda f: (f / MANIFEST).write_text("[" * 100_000)),
    HostileFile("a manifest without files", "not a manifest", lambda f: (f / MANIFEST).write_text("{}")),
    HostileFile("a pickle named .onnx", "not an ONNX graph", _pickled),
    HostileFile("a pickle named .parquet", "cannot be read", _pickled_rows),
    HostileFile("a pickle beside the graph", "does not belong", _pickle_beside),
    HostileFile("a pickle instead of the graph", "pickle", _pickle_instead),
    HostileFile("a contract that is not JSON", "contract.json.*not JSON", _bytes("contract.json", b"{")),
    HostileFile("a contract of brackets", "contract.json.*not JSON", _bytes("contract.json", b'{"a":' * 100_000)),
    HostileFile("a contract that is a list", "not a JSON object", _bytes("contract.json", b"[1, 2]")),
    HostileFile("a contract of 40 MB", "larger than", _bytes("contract.json", b'"' + b"a" * 40_000_000 + b'"')),
    HostileFile("a contract with NaN", "not JSON", _column("minimum", float("nan"))),
    HostileFile(
        "a contract without columns", "columns", _json("contract.json", lambda c: c.__setitem__("columns", []))
    ),
    HostileFile(
        "columns that are a text", "expected form", _json("contract.json", lambda c: c.__setitem__("columns", "ab"))
    ),
    HostileFile(
        "a model that climbs folders",
        "contract.json.*model",
        _json("contract.json", lambda c: c.__setitem__("model", "../../x")),
    ),
    HostileFile(
        "a model that is a number", "contract.json.*model", _json("contract.json", lambda c: c.__setitem__("model", 7))
    ),
    HostileFile("a column without a name", "columns\\[0\\].*name", _column("name", "")),
    HostileFile("a column whose name is a list", "columns\\[0\\].*name", _column("name", ["a"])),
    HostileFile("a dtype that does not exist", "dtype or policy", _column("dtype", "complex")),
    HostileFile("a dtype that is a list", "dtype or policy", _column("dtype", [1])),
    HostileFile("a nullable of 3", "nullable", _column("nullable", 3)),
    HostileFile("a range of text", "range", _column("maximum", "high")),
    HostileFile("a range of 10^400", "range", _column("maximum", 10**400)),
    HostileFile("an example of text", "example", _column("example", "0.5")),
    HostileFile("two columns of one name", "occurs twice", _column("name", "b")),
    HostileFile(
        "classes that are lists",
        "classes",
        _json("contract.json", lambda c: c["output"].__setitem__("classes", [[1], [2]])),
    ),
    HostileFile("no classes", "no classes", _json("contract.json", lambda c: c["output"].__setitem__("classes", []))),
    HostileFile(
        "a class too many", "another shape", _json("contract.json", lambda c: c["output"]["classes"].append(9))
    ),
    HostileFile(
        "the classes in another order",
        "other answers",
        _json("contract.json", lambda c: c["output"].__setitem__("classes", [2, 1, 0])),
    ),
    HostileFile("a reference that is text", "reference.json.*not a JSON object", _bytes("reference.json", b'"a"')),
    HostileFile(
        "a reference without bins", "reference.json", _json("reference.json", lambda r: r.__setitem__("score", 7))
    ),
    HostileFile(
        "a reference of a stranger's column",
        "reference.json",
        _json("reference.json", lambda r: r["columns"].update(zz=r["score"])),
    ),
    HostileFile("a certificate without a verdict", "certificate.json", _bytes("certificate.json", b"{}")),
    HostileFile("a card that is not text", "card.md", _bytes("card.md", b"\xff\xfe\x00")),
    HostileFile("truncated golden rows", "cannot be read", _cut("golden.parquet")),
    HostileFile(
        "golden rows of random bytes", "cannot be read", _bytes("golden.parquet", b"PAR1" + b"\x17" * 500 + b"PAR1")
    ),
    HostileFile("golden rows by the million million", "golden rows are refused", _lying_rows),
    HostileFile("no golden rows", "not 1 to", _golden(lambda g: g.head(0))),
    HostileFile("20,000 golden rows", "not 1 to", _golden(lambda g: pd.concat([g] * 625))),
    HostileFile("golden rows of another model", "columns are not", _golden(lambda g: g.rename(columns={"a": "z"}))),
    HostileFile("golden rows of text", "cannot be checked|cannot be read", _golden(lambda g: g.assign(a="x"))),
    HostileFile(
        "golden rows that promise NaN",
        "not finite",
        _golden(lambda g: g.assign(_expected=pd.Series([[np.nan] * 3] * len(g)))),
    ),
    HostileFile("golden rows that promise text", "cannot be read", _golden(lambda g: g.assign(_expected="x"))),
    HostileFile(
        "golden rows that promise other answers",
        "other answers",
        _golden(lambda g: g.assign(_expected=pd.Series([[0.5, 0.25, 0.25]] * len(g)))),
    ),
    HostileFile(
        "golden rows that promise other classes",
        "other answers",
        _golden(lambda g: g.assign(_chosen=(g["_chosen"] + 1) % 3)),
    ),
]
