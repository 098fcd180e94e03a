"""The application for a WSGI server: `gunicorn -c gunicorn.conf.py wsgi:app`."""

import os

from app import create_app
from config import load

app = create_app(load(os.environ))
