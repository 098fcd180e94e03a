"""MLflow in a browser: sign-in and its sessions, the status page, MLflow's assets compressed.

Mounted beside the walk, as blueprints. The walk knows of it that a session's cookie is one more
form of credential (app/request/credentials.py), no more.
"""
