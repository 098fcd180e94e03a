"""What operators read: metrics, the log line of a request, audit, traces."""
