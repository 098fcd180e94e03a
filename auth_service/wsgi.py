"""The application for gunicorn, from the environment: `auth_service.wsgi:app`."""

from auth_service import create_app, settings

_settings = settings.load()

app = create_app(_settings.database, _settings.redis_url)
