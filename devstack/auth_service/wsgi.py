"""The application for gunicorn, from the environment: `devstack.auth_service.wsgi:app`."""

from devstack.auth_service import create_app, settings

_settings = settings.load()

app = create_app(_settings.database, _settings.redis_url)
