"""The engine of a version whose graph is not in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from serving.devices.shapes import Tensors
from serving.engine import Answer
from serving.errors import NotReady


class Absent:
    """Stands where an engine stands while nobody has asked for its model lately."""

    provider: ClassVar[str] = "none"
    placement: ClassVar[Mapping[str, int]] = {}

    def run(self, tensors: Tensors) -> Answer:
        """Refuse.

        Raises:
            NotReady: always; a request that comes this far has missed the loading.
        """
        raise NotReady("the model is not in memory", hint="try again")
