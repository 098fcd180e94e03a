"""Observability: metrics, a log line per request, the audit log, traces."""
