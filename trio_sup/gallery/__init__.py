"""Galleries and releases: what can be installed, what is installed, and how the one becomes the other."""
