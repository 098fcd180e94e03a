"""MLflow in a browser: sign-in and its sessions, the status page, MLflow's assets compressed.

Mounted beside the pipeline, as blueprints. All that the pipeline knows of it is that a session's
cookie is one more form of credential (app/request/credentials.py).
"""
