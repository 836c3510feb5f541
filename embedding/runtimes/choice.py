"""Choose the runtime of a network, and create the network with it."""

import logging
from dataclasses import dataclass
from pathlib import Path

from embedding.errors import ExportFailed, UnsupportedRuntime
from embedding.runtimes.exported import NetworkToExport, exported_network
from embedding.runtimes.network import Network, choose_device
from embedding.runtimes.onnx_network import REMEDY, OnnxNetwork, missing_packages
from embedding.runtimes.options import NetworkOptions
from embedding.runtimes.torch_network import TorchNetwork

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ChosenRuntime:
    """The library that will run a network, and why."""

    name: str  # "onnxruntime" or "torch"
    reason: str


def choose_runtime(options: NetworkOptions) -> ChosenRuntime:
    """Return the runtime for these options; raises UnsupportedRuntime and UnsupportedDevice."""
    device = choose_device(options.device, options.precision)
    if options.runtime == "torch":
        return ChosenRuntime("torch", "the runtime torch is set")
    if options.runtime not in ("auto", "onnxruntime"):
        raise UnsupportedRuntime(f"unknown runtime {options.runtime!r}; use auto, onnxruntime or torch")
    is_auto = options.runtime == "auto"
    if device.type != "cpu":
        if is_auto:
            return ChosenRuntime("torch", f"auto: the device is {device}")
        raise UnsupportedRuntime(f"onnxruntime needs a CPU, and the device is {device}; use the runtime torch")
    if missing := missing_packages():
        if is_auto:
            return ChosenRuntime("torch", f"auto: {', '.join(missing)} not installed; {REMEDY} for faster networks")
        raise UnsupportedRuntime(f"{', '.join(missing)} not installed; {REMEDY}, or use the runtime torch")
    return ChosenRuntime("onnxruntime", "auto: the device is a CPU" if is_auto else "the runtime onnxruntime is set")


def create_network(wanted: NetworkToExport, options: NetworkOptions, *, exported: Path | None = None) -> Network:
    """Create the network with the runtime that `options` choose.

    `exported` is a file of the network that was exported before, for example in a release. Raises UnsupportedRuntime,
    UnsupportedDevice, and ExportFailed if the runtime is onnxruntime; with auto, torch then runs the network, and a
    warning says so.
    """
    chosen = choose_runtime(options)
    reason = chosen.reason
    if chosen.name == "onnxruntime":
        try:
            return _onnx_network(wanted, options, exported, reason)
        except (ExportFailed, UnsupportedRuntime) as error:
            if options.runtime != "auto":
                raise
            log.warning("torch runs the network instead of ONNX Runtime: %s", error)
            reason = f"auto: {error}"
    device = choose_device(options.device, options.precision)
    return TorchNetwork(
        wanted.model, wanted.preprocessing, device, options.precision, takes=wanted.takes, reason=reason
    )


def _onnx_network(wanted: NetworkToExport, options: NetworkOptions, exported: Path | None, reason: str) -> OnnxNetwork:
    if exported is not None:
        try:
            return OnnxNetwork(exported, options.num_threads, options.concurrent_runs, reason=reason)
        except UnsupportedRuntime as error:
            # The release may come from a newer version.
            log.warning("%s; the network is exported again", error)
    with exported_network(wanted, options.cache_dir) as file:
        return OnnxNetwork(file, options.num_threads, options.concurrent_runs, reason=reason)
