"""The WSGI application, for `gunicorn -c gunicorn.conf.py wsgi:app` and for `flask …`."""

import os
import sys

from app.factory import create_app
from config import BadSettings, load

try:
    settings = load(os.environ)
except BadSettings as bad:
    sys.exit(str(bad))  # every error at once, no traceback, no value

app = create_app(settings)
