"""Settings: every environment variable that the proxy reads, read once, here and nowhere else."""

from config.settings import BadSettings, Settings, load

__all__ = ["BadSettings", "Settings", "load"]
