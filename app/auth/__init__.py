"""Authentication and authorization: who calls, and what the key may do."""
