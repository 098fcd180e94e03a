"""MLflow in a browser: sign-in and its sessions, the status page, MLflow's assets compressed.

Blueprints beside the pipeline. To the pipeline a session's cookie is one more form of credential
(app/request/credentials.py).
"""
