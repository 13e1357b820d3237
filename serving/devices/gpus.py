"""The machine's GPUs as their driver tells of them, through its own library; nothing where there is none."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any, Final

from monitoring.alerting.metrics import ServeMetrics

_LIBRARY: Final = "libnvidia-ml.so.1"


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class _Utilization(ctypes.Structure):
    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU: the share of time in which it worked lately, bytes in use by anybody, and bytes that it has."""

    index: int
    utilization: float
    memory_bytes: int
    total_bytes: int


class Gpus:
    """Reads NVML. Each call costs microseconds; a GPU that does not answer is left out."""

    def __init__(self) -> None:
        self._handles: dict[int, ctypes.c_void_p] = {}
        self._library: Any = None
        try:
            library = ctypes.CDLL(_LIBRARY)
        except OSError:  # no driver on this machine
            return
        count = ctypes.c_uint()
        if library.nvmlInit_v2() != 0 or library.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
            return
        self._library = library
        for index in range(count.value):
            handle = ctypes.c_void_p()
            if library.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(handle)) == 0:
                self._handles[index] = handle

    def read(self) -> list[Gpu]:
        """What each of them does now."""
        found = []
        for index, handle in self._handles.items():
            memory, utilization = _Memory(), _Utilization()
            answers = (
                self._library.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)),
                self._library.nvmlDeviceGetUtilizationRates(handle, ctypes.byref(utilization)),
            )
            if answers == (0, 0):
                found.append(Gpu(index, utilization.gpu / 100, memory.used, memory.total))
        return found

    def observe(self, metrics: ServeMetrics) -> None:
        """Set the gauges."""
        for gpu in self.read():
            metrics.gpu_utilization_ratio.labels(gpu=str(gpu.index)).set(gpu.utilization)
            metrics.gpu_memory_bytes.labels(gpu=str(gpu.index)).set(gpu.memory_bytes)
            metrics.gpu_memory_total_bytes.labels(gpu=str(gpu.index)).set(gpu.total_bytes)

    def memory_bytes(self) -> int:
        """Bytes in use on all of them."""
        return sum(gpu.memory_bytes for gpu in self.read())
