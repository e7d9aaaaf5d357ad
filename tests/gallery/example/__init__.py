"""A small gallery of backends that answer with real models; see `build`."""
