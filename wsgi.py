"""The application for a WSGI server: `gunicorn -c gunicorn.conf.py wsgi:app`; and for `flask …`."""

import os
import sys

from app.factory import create_app
from config import BadSettings, load

try:
    settings = load(os.environ)
except BadSettings as bad:
    sys.exit(str(bad))  # every complaint at once, no traceback, no value

app = create_app(settings)
