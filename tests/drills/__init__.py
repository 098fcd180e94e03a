"""Fault drills: real servers, real faults, and what the clients saw. `make drill` runs them all.

The same drills, smaller, are part of `make test` (tests/faults/).
"""
