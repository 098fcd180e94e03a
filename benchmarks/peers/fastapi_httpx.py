"""A peer: the small proxy that many teams write with FastAPI and httpx, as quick as they can be.

    uvicorn fastapi_httpx:app

A key is hashed and looked up in Redis, else validated by the auth service and kept for a minute; a
request is counted in Redis; a short body is passed on whole, a long one in pieces; one JSON log
line and two metrics a request. POOLED: one httpx client for all requests, else a new one for each,
as the predecessor of this proxy had it.

It does less than this proxy: no revocation, no scopes, no retries, no circuit, no protection
against forged identity headers, no refusal of odd paths.
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
from fastapi.responses import StreamingResponse
from prometheus_client import Counter, Histogram
from redis.asyncio import Redis
from starlette.background import BackgroundTask

UPSTREAM, AUTH = os.environ["UPSTREAM"], os.environ["AUTH"]
POOLED = bool(os.environ["POOLED"])
CACHE_TTL = 60
WHOLE = 1024 * 1024
DROPPED = {"authorization", "host", "connection", "content-length", "transfer-encoding", "cookie"}
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "server", "date"}

REQUESTS = Counter("peer_requests_total", "Requests.", ("method", "status"))
DURATION = Histogram("peer_request_seconds", "Time to the upstream's answer.")

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
    """While the process serves."""
    return {"status": "healthy"}


@app.api_route("/api/mlflow/{path:path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
async def forward(path: str, request: Request) -> Response:
    """Validate, limit, forward, log."""
    began, request_id = time.monotonic(), uuid.uuid4().hex
    key = request.headers.get("authorization", "").removeprefix("Bearer ")
    verdict = await validate(key, request.client.host if request.client else "")
    if verdict is None:
        return Response('{"error_code": "UNAUTHENTICATED"}', 401, media_type="application/json")
    if not await within_limit(verdict):
        return Response('{"error_code": "REQUEST_LIMIT_EXCEEDED"}', 429)
    headers = [(n, v) for n, v in request.headers.items() if n not in DROPPED]
    headers += [("x-hokusai-user-id", verdict["user_id"]), ("x-request-id", request_id)]
    answer = await send(path, request, headers)
    DURATION.observe(time.monotonic() - began)
    REQUESTS.labels(request.method, str(answer.status_code)).inc()
    line: dict[str, Any] = {"request_id": request_id, "method": request.method, "path": path}
    line |= {"status": answer.status_code, "key_id": verdict["key_id"]}
    log.info(json.dumps(line | {"duration_ms": round((time.monotonic() - began) * 1000, 2)}))
    return answer


async def validate(key: str, client_ip: str) -> dict[str, Any] | None:
    """The auth service's answer, from Redis where it is there."""
    name = "peer:verdict:" + hashlib.sha256(f"{key} {client_ip}".encode()).hexdigest()
    if known := await redis.get(name):
        kept: dict[str, Any] = json.loads(known)
        return kept
    async with a_client() as asking:
        answer = await asking.post(
            f"{AUTH}/api/v1/keys/validate",
            json={"service_id": "platform", "client_ip": client_ip},
            headers={"Authorization": f"Bearer {key}"},
        )
    if answer.status_code != 200:
        return None
    await redis.set(name, answer.content, ex=CACHE_TTL)
    said: dict[str, Any] = answer.json()
    return said


async def within_limit(verdict: dict[str, Any]) -> bool:
    """Counts one request of this key in this hour, in one round trip."""
    name = f"peer:count:{verdict['key_id']}:{int(time.time() // 3600)}"
    async with redis.pipeline(transaction=False) as pipeline:
        pipeline.incr(name)
        pipeline.expire(name, 3600)
        count, _ = await pipeline.execute()
    limit: int = verdict["rate_limit_per_hour"]
    return int(count) <= limit


async def send(path: str, request: Request, headers: list[tuple[str, str]]) -> Response:
    """The upstream's answer; a long body is streamed."""
    using = a_client()
    own = await using.__aenter__()
    length = int(request.headers.get("content-length", 0))
    if length > WHOLE:
        headers.append(("content-length", str(length)))
    body = request.stream() if length > WHOLE else await request.body()
    url = httpx.URL(f"{UPSTREAM}/{path}", query=request.url.query.encode())
    question = own.build_request(request.method, url, headers=headers, content=body)
    answer = await own.send(question, stream=True)
    kept = {n: v for n, v in answer.headers.items() if n not in HOP_BY_HOP}

    async def close() -> None:
        await answer.aclose()
        await using.__aexit__(None, None, None)

    if int(answer.headers.get("content-length", WHOLE + 1)) > WHOLE:
        return StreamingResponse(
            answer.aiter_raw(), answer.status_code, kept, background=BackgroundTask(close)
        )
    content = b"".join([piece async for piece in answer.aiter_raw()])
    await close()
    return Response(content, answer.status_code, kept)


@contextlib.asynccontextmanager
async def a_client() -> AsyncIterator[httpx.AsyncClient]:
    """The one client, or a new one."""
    if client is not None:
        yield client
        return
    async with httpx.AsyncClient(timeout=30) as own:
        yield own
