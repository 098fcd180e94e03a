"""The product's version (semantic versioning); CHANGELOG.md lists the changes."""

VERSION = "0.1.0"
