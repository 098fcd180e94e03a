"""Who calls, and what the key may do."""
