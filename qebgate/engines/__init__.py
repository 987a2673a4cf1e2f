"""Engines turn tasks into evidence, cheap ones first."""
