"""Runtimes: what runs a network. torch everywhere; on a CPU, ONNX Runtime if it is installed, which is faster."""
