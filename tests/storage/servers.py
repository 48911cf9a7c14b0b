"""An S3-compatible object store on this machine, that can be made slow and can be made to fail."""

import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import boto3
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

BUCKET = "bucket"


@dataclass
class Fault:
    """What becomes of requests: the first `times` of them (None: all) whose "METHOD /bucket/key?query" `matches` finds.

    status: answered instead of the store; None hangs up in the middle of the body, which the store has taken by then. after: matching
    requests that pass untouched before.
    """

    matches: str = ""
    times: int | None = 1
    status: int | None = 503
    after: int = 0
    seen: int = 0


@dataclass
class S3Server:
    """`url` of a bucket, and `environment`: what makes fsspec, s3fs and boto3 of a process use this server."""

    endpoint: str
    latency_s: float = 0.0  # before every answer
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)  # "METHOD /bucket/key?query"
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        return f"s3://{BUCKET}"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "nobody",
            "AWS_SECRET_ACCESS_KEY": "nothing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self) -> Any:
        """boto3's, for looking at the bucket behind the backs of fsspec and its caches."""
        return boto3.client(
            "s3", endpoint_url=self.endpoint, aws_access_key_id="nobody", aws_secret_access_key="nothing", region_name="us-east-1"
        )

    def objects(self) -> dict[str, bytes]:
        """Every object of the bucket by its key."""
        client = self.client()
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
        keys = [each["Key"] for page in pages for each in page.get("Contents", ())]
        return {key: client.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in keys}

    def fault_of(self, request: str) -> Fault | None:
        with self.lock:
            self.requests.append(request)
            for fault in self.faults:
                if re.search(fault.matches, request):
                    fault.seen += 1
                    if fault.seen > fault.after and (fault.times is None or fault.seen <= fault.after + fault.times):
                        return fault
        return None


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """Runs while the block does, with one empty bucket."""
    store = DomainDispatcherApplication(create_backend_app)
    ours: list[S3Server] = []

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        query = environ.get("QUERY_STRING", "")
        request = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}{'?' + query if query else ''}"
        time.sleep(ours[0].latency_s)
        fault = ours[0].fault_of(request)
        if fault is None:
            return store(environ, start_response)
        if fault.status is not None:
            start_response(f"{fault.status} Injected", [("Content-Type", "text/plain"), ("Content-Length", "0")])
            return []
        body = b"".join(store(environ, lambda status, headers, exc_info=None: start_response("200 OK", [("Content-Length", "1000000000")])))
        return [body[: len(body) // 2] or b"\0"]

    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=_Silent)
    ours.append(S3Server(f"http://127.0.0.1:{server.port}"))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        ours[0].client().create_bucket(Bucket=BUCKET)
        yield ours[0]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Silent(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:
        pass
