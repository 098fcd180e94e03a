"""The servers that `make run` and the tests start, and the environments they need."""
