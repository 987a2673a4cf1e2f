"""Thin bridges from other tools to the gate; each uses qebgate's public Python interface only.

This folder is installed as ``qebgate.integrations`` (see ``docs/decisions/0001-integrations-packaging.md``).
Nothing is imported here: every bridge needs a package of its own.
"""
