"""gunicorn's side of the house: the worker, the logs, the folder that the workers share.

Loaded in the master before anything is patched for gevent, so nothing here imports `app`.
"""
