"""A peer: the small proxy that many teams write with FastAPI and httpx, as quick as they can be.

    uvicorn fastapi_httpx:app

A key is hashed and looked up in Redis, else validated by the auth service and kept for a minute; a
request is counted in Redis; one JSON log line and two metrics a request. POOLED: one httpx client
for all requests, else a new one for each, as the predecessor of this proxy had it.

It does less than this proxy: no streams, no revocation, no scopes, no retries, no circuit, no
protection against forged identity headers, no refusal of odd paths.
"""

import contextlib
import hashlib
import json
import logging
import os
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

import httpx
from fastapi import FastAPI, Request, Response
from prometheus_client import Counter, Histogram
from redis.asyncio import Redis

UPSTREAM, AUTH = os.environ["UPSTREAM"], os.environ["AUTH"]
POOLED = bool(os.environ["POOLED"])
CACHE_TTL = 60
DROPPED = {"authorization", "host", "connection", "content-length", "transfer-encoding", "cookie"}
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "server", "date"}

REQUESTS = Counter("peer_requests_total", "Requests.", ("method", "status"))
DURATION = Histogram("peer_request_seconds", "Time to the upstream's response.")

log = logging.getLogger("peer")
log.setLevel("INFO")
log.addHandler(logging.StreamHandler())

redis = Redis.from_url(os.environ["REDIS"])
#: Below uvicorn's keep-alive of 5 s, or a request meets a connection that MLflow just closes.
limits = httpx.Limits(max_keepalive_connections=64, keepalive_expiry=4)
client = httpx.AsyncClient(timeout=30, limits=limits) if POOLED else None
app = FastAPI()


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "healthy"}


@app.api_route("/api/mlflow/{path:path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
async def forward(path: str, request: Request) -> Response:
    began, request_id = time.monotonic(), uuid.uuid4().hex
    key = request.headers.get("authorization", "").removeprefix("Bearer ")
    decision = await validate(key, request.client.host if request.client else "")
    if decision is None:
        return Response('{"error_code": "UNAUTHENTICATED"}', 401, media_type="application/json")
    if not await within_limit(decision):
        return Response('{"error_code": "REQUEST_LIMIT_EXCEEDED"}', 429)
    headers = {name: value for name, value in request.headers.items() if name not in DROPPED}
    headers |= {"x-hokusai-user-id": decision["user_id"], "x-request-id": request_id}
    response = await send(path, request, headers)
    DURATION.observe(time.monotonic() - began)
    REQUESTS.labels(request.method, str(response.status_code)).inc()
    line: dict[str, Any] = {"request_id": request_id, "method": request.method, "path": path}
    line |= {"status": response.status_code, "key_id": decision["key_id"]}
    log.info(json.dumps(line | {"duration_ms": round((time.monotonic() - began) * 1000, 2)}))
    return response


async def validate(key: str, client_ip: str) -> dict[str, Any] | None:
    """The auth service's decision, from Redis where it is there; None for a bad key."""
    name = "peer:decision:" + hashlib.sha256(f"{key} {client_ip}".encode()).hexdigest()
    content = await redis.get(name)
    if not content:
        async with a_client() as http:
            response = await http.post(
                f"{AUTH}/api/v1/keys/validate",
                json={"service_id": "platform", "client_ip": client_ip},
                headers={"Authorization": f"Bearer {key}"},
            )
        if response.status_code != 200:
            return None
        content = response.content
        await redis.set(name, content, ex=CACHE_TTL)
    decision: dict[str, Any] = json.loads(content)
    return decision


async def within_limit(decision: dict[str, Any]) -> bool:
    """Count one request of this key in this hour, in one round trip."""
    name = f"peer:count:{decision['key_id']}:{int(time.time() // 3600)}"
    async with redis.pipeline(transaction=False) as pipeline:
        pipeline.incr(name)
        pipeline.expire(name, 3600)
        count, _ = await pipeline.execute()
    limit: int = decision["rate_limit_per_hour"]
    return int(count) <= limit


async def send(path: str, request: Request, headers: dict[str, str]) -> Response:
    url = httpx.URL(f"{UPSTREAM}/{path}", query=request.url.query.encode())
    body = await request.body()
    async with a_client() as http:
        got = await http.request(request.method, url, headers=headers, content=body)
    kept = {name: value for name, value in got.headers.items() if name not in HOP_BY_HOP}
    return Response(got.content, got.status_code, kept)


@contextlib.asynccontextmanager
async def a_client() -> AsyncIterator[httpx.AsyncClient]:
    """The one client, or a new one."""
    if client:
        yield client
    else:
        async with httpx.AsyncClient(timeout=30) as http:
            yield http
