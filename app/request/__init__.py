"""What is read of a request before anything is decided: path, credentials, route."""
