"""SavedModel folders as float references, read without TensorFlow: nothing in them is executed."""

from qebgate.adapters.saved_model.reader import read_saved_model

__all__ = ["read_saved_model"]
