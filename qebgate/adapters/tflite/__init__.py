"""TensorFlow Lite files, read without TensorFlow and without trusting them."""

from qebgate.adapters.tflite.reader import read_tflite

__all__ = ["read_tflite"]
