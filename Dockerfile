# Three images from one file: the proxy (the last stage, so the default one), the local auth
# service, and MLflow. A build installs what the lock files list, by hash, and compiles nothing.

ARG PYTHON_IMAGE=python:3.11.13-slim-bookworm


# --- what is installed --------------------------------------------------------------------------

FROM ${PYTHON_IMAGE} AS packages
COPY requirements/production.lock /build/requirements.lock
RUN ["python", "-m", "venv", "--without-pip", "/opt/venv"]
RUN ["pip", "--python", "/opt/venv/bin/python", "install", "--no-cache-dir", "--require-hashes", "--only-binary", ":all:", "-r", "/build/requirements.lock"]

FROM ${PYTHON_IMAGE} AS mlflow-packages
COPY requirements/mlflow-image.lock /build/requirements.lock
RUN ["python", "-m", "venv", "--without-pip", "/opt/venv"]
RUN ["pip", "--python", "/opt/venv/bin/python", "install", "--no-cache-dir", "--require-hashes", "--only-binary", ":all:", "-r", "/build/requirements.lock"]


# --- the code, compiled, since nobody can write beside it later ---------------------------------

FROM ${PYTHON_IMAGE} AS proxy-code
COPY app /app/app
COPY config /app/config
COPY gunicorn.conf.py wsgi.py /app/
RUN ["python", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", "/app"]

FROM ${PYTHON_IMAGE} AS auth-service-code
COPY app /app/app
COPY config /app/config
COPY devstack/__init__.py /app/devstack/
COPY devstack/auth_service /app/devstack/auth_service
RUN ["python", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", "/app"]
RUN ["mkdir", "/data"]


# --- what the three have in common --------------------------------------------------------------

FROM ${PYTHON_IMAGE} AS runtime
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /app
# By number, so that an orchestrator can see that it is not root. It owns nothing of the image.
USER 10001:10001
# The one writable place of a read-only container. Declared, so that an empty volume that is mounted
# here takes over this folder's mode (1777) and is not root's alone, as it would be on Fargate.
VOLUME /tmp
STOPSIGNAL SIGTERM


# --- MLflow -------------------------------------------------------------------------------------

FROM runtime AS mlflow
ARG REVISION=unknown
LABEL org.opencontainers.image.title="MLflow for the Hokusai MLflow proxy" \
      org.opencontainers.image.description="mlflow server with PostgreSQL and S3" \
      org.opencontainers.image.version="3.17.2" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=mlflow-packages /opt/venv /opt/venv
ENV HOME=/tmp \
    MLFLOW_DISABLE_TELEMETRY=true \
    MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
EXPOSE 5000
HEALTHCHECK --interval=15s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import http.client as h; c = h.HTTPConnection('127.0.0.1:5000', timeout=4); c.request('GET', '/health'); exit(c.getresponse().status != 200)"]
CMD ["mlflow", "server", "--host", "0.0.0.0", "--port", "5000", "--uvicorn-opts", "--timeout-keep-alive 75"]


# --- the local auth service: for one machine, not for production --------------------------------

FROM runtime AS auth-service
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Hokusai local auth service" \
      org.opencontainers.image.description="A stand-in for the auth service, on one machine" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=packages /opt/venv /opt/venv
COPY --from=auth-service-code /app /app
COPY --from=auth-service-code --chown=10001:10001 /data /data
ENV AUTH_SERVICE_BIND=0.0.0.0:8001 \
    AUTH_SERVICE_DATABASE=/data/keys.db
EXPOSE 8001
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import http.client as h, os; c = h.HTTPConnection('127.0.0.1:' + os.environ['AUTH_SERVICE_BIND'].rpartition(':')[2], timeout=4); c.request('GET', '/health'); exit(c.getresponse().status != 200)"]
CMD ["python", "-m", "devstack.auth_service", "serve"]


# --- the proxy ----------------------------------------------------------------------------------

FROM runtime AS proxy
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Hokusai MLflow proxy" \
      org.opencontainers.image.description="API keys, limits and resilience in front of an MLflow tracking server" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=packages /opt/venv /opt/venv
COPY --from=proxy-code /app /app
ENV BIND=0.0.0.0:8000
EXPOSE 8000
# Liveness only, and without curl: whoever routes requests asks /ready.
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import http.client as h, os, socket as s; at = os.environ['BIND'].strip() or ':8000'; at = '0.0.0.0' + at if at[0] == ':' else at; local = at.startswith('unix:'); c = h.HTTPConnection('localhost' if local else at, timeout=4); c.sock = s.socket(s.AF_UNIX) if local else None; local and c.sock.connect(at[5:]); c.request('GET', '/health'); exit(c.getresponse().status != 200)"]
CMD ["gunicorn", "-c", "gunicorn.conf.py", "wsgi:app"]
