"""Limits: the requests that a key, an address or a worker may make."""
