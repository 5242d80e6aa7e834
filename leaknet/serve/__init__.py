"""A local page and an HTTP API that score uploaded images."""
