"""The product's version (semantic versioning); docs/changelog.md says what changed."""

VERSION = "0.1.0"
