"""Keras models, read without Keras and without trusting them."""

from qebgate.adapters.keras.reader import SUFFIXES, read_keras, read_live

__all__ = ["SUFFIXES", "read_keras", "read_live"]
