"""The product's version (semantic versioning); CHANGELOG.md says what changed."""

VERSION = "0.1.0"
