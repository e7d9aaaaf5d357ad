"""Sets no SO_REUSEADDR, like the simplest of servers: the placeholder is in its way."""

from _listening import listen, serve_for_ever

serve_for_ever(listen(reuse_address=False))
