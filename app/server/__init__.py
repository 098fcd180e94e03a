"""gunicorn's side: the worker, the logs, the folder that the workers share.

The master loads it before gevent patches the standard library. So of the rest of app/ it imports
only the metric files and folders (app/observability/). It calls the application by WorkerHooks.
"""
