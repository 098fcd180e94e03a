"""The request's parts, parsed before any decision: path, credentials, route."""
