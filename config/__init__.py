"""Settings: every environment variable of the proxy, read once and only in this package."""

from config.settings import BadSettings, Settings, load

__all__ = ["BadSettings", "Settings", "load"]
