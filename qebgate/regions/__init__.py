"""Regions: what inputs a check is about."""
