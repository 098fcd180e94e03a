"""How many requests a key, an address or a worker may make."""
