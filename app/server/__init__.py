"""gunicorn's side: the worker, the logs, the folder that the workers share.

Loaded in the master before anything is patched for gevent, so of the rest of app/ it imports only
the metric files and folders (app/observability/). It calls the application by WorkerHooks.
"""
