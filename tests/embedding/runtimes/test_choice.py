import pytest

from embedding.errors import UnsupportedRuntime
from embedding.runtimes import choice
from embedding.runtimes.choice import choose_runtime, create_network
from embedding.runtimes.exported import NetworkToExport
from embedding.runtimes.options import NetworkOptions


@pytest.fixture
def without_onnxruntime(monkeypatch):
    """An environment without the packages of ONNX Runtime, as a bare GPU machine."""
    monkeypatch.setattr(choice, "missing_packages", lambda: ["onnxruntime", "onnx", "onnxscript"])


@pytest.fixture
def on_gpu(monkeypatch):
    """A machine with one GPU."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)


@pytest.mark.parametrize(
    ("runtime", "name", "reason"),
    [
        ("auto", "onnxruntime", "auto: the device is a CPU"),
        ("onnxruntime", "onnxruntime", "the runtime onnxruntime is set"),
        ("torch", "torch", "the runtime torch is set"),
    ],
)
def test_onnxruntime_runs_networks_on_a_cpu(runtime, name, reason):
    chosen = choose_runtime(NetworkOptions("cpu", runtime=runtime))

    assert (chosen.name, chosen.reason) == (name, reason)


def test_torch_runs_networks_on_a_gpu(on_gpu):
    chosen = choose_runtime(NetworkOptions("auto", runtime="auto"))

    assert (chosen.name, chosen.reason) == ("torch", "auto: the device is cuda")
    with pytest.raises(UnsupportedRuntime, match="needs a CPU, and the device is cuda; use the runtime torch"):
        choose_runtime(NetworkOptions("cuda", runtime="onnxruntime"))


def test_torch_runs_networks_where_onnxruntime_is_not_installed(without_onnxruntime):
    chosen = choose_runtime(NetworkOptions("cpu", runtime="auto"))

    assert chosen.name == "torch"
    assert chosen.reason == (
        "auto: onnxruntime, onnx, onnxscript not installed; pip install 'akin[cpu]' for faster networks"
    )
    with pytest.raises(UnsupportedRuntime, match=r"onnx, onnxscript not installed; pip install 'akin\[cpu\]'"):
        choose_runtime(NetworkOptions("cpu", runtime="onnxruntime"))


def test_refuses_an_unknown_runtime():
    with pytest.raises(UnsupportedRuntime, match="unknown runtime 'openvino'; use auto, onnxruntime or torch"):
        choose_runtime(NetworkOptions("cpu", runtime="openvino"))  # type: ignore[arg-type]  # as a setting might be


def test_torch_runs_a_network_that_cannot_be_exported(tiny_network, unexportable, caplog):
    network = create_network(tiny_network, NetworkOptions("cpu", runtime="auto"))

    assert network.runtime.startswith("torch ")
    assert network.runtime_reason == "auto: the network conv4 cannot be exported to ONNX: Unsupported: operator"
    assert "torch runs the network instead of ONNX Runtime" in caplog.text


def test_a_network_that_cannot_be_exported_is_refused_if_onnxruntime_is_set(tiny_network, unexportable):
    with pytest.raises(Exception, match="the network conv4 cannot be exported to ONNX: Unsupported: operator"):
        create_network(tiny_network, NetworkOptions("cpu", runtime="onnxruntime"))


def test_a_file_that_this_version_cannot_read_is_exported_again(tiny_network, exports, tmp_path, caplog):
    newer = tmp_path / "network.onnx"
    newer.write_bytes(b"written by a newer version")

    network = create_network(tiny_network, NetworkOptions("cpu", runtime="auto", cache_dir=exports), exported=newer)

    assert network.runtime.startswith("onnxruntime ")
    assert "cannot read network.onnx" in caplog.text


def test_a_network_is_prepared_for_its_own_input(tiny_network):
    assert NetworkToExport(tiny_network.model, tiny_network.preprocessing, "s").key != (
        NetworkToExport(tiny_network.model, tiny_network.preprocessing, "s", takes="normalised").key
    )
