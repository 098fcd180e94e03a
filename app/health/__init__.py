"""What is wrong, and what to do: health checks, their messages, readiness."""
