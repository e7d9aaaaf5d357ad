"""Backends from OCI registries and image files."""
