"""A bad artifact never gets through: digests, golden rows, crashes, hangs, forbidden operators."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from registry.bundle import FILES, read_bundle, seal
from registry.errors import BundleCorrupt
from registry.sandbox import check_in_child

Copy = Callable[[], Path]


@pytest.mark.parametrize("name", ["model.onnx", *FILES])
def test_a_flipped_bit_in_any_file_is_found(name: str, copied_bundle: Copy) -> None:
    """The manifest covers every file."""
    folder = copied_bundle()
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(bytes(data))
    with pytest.raises(BundleCorrupt, match=name):
        read_bundle(folder)


def test_a_truncated_missing_or_linked_file_is_found(copied_bundle: Copy) -> None:
    """Each is named."""
    truncated = copied_bundle()
    (truncated / "model.onnx").write_bytes((truncated / "model.onnx").read_bytes()[:100])
    missing = copied_bundle()
    (missing / "card.md").unlink()
    linked = copied_bundle()
    shutil.move(linked / "model.onnx", linked.parent / "elsewhere.onnx")
    (linked / "model.onnx").symlink_to(linked.parent / "elsewhere.onnx")
    for folder, name in ((truncated, "model.onnx"), (missing, "card.md"), (linked, "model.onnx")):
        with pytest.raises(BundleCorrupt, match=name):
            read_bundle(folder)


def test_bytes_swapped_after_the_check_are_not_run(copied_bundle: Copy) -> None:
    """`model_bytes` checks again."""
    folder = copied_bundle()
    bundle = read_bundle(folder)
    (folder / "model.onnx").write_bytes(b"other")
    with pytest.raises(BundleCorrupt, match="changed"):
        bundle.model_bytes()


def test_a_good_bundle_passes_in_the_child(toy_bundle: Path) -> None:
    """The control of the tests below."""
    check_in_child(toy_bundle)


def test_other_answers_than_promised_are_found(copied_bundle: Copy) -> None:
    """A sealed bundle whose golden rows expect something else."""
    import pandas as pd

    folder = copied_bundle()
    golden = pd.read_parquet(folder / "golden.parquet")
    golden["_expected"] += 1.0
    golden.to_parquet(folder / "golden.parquet", index=False)
    seal(folder)
    with pytest.raises(BundleCorrupt, match="other answers"):
        check_in_child(folder)
