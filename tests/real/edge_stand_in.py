"""A small stand-in for Odoo behind the edge, run inside a container: says what it got, counts what it acknowledged.

argv: the ports to listen on. `/journal` (a volume that outlives it) gets a line for every request when it starts
and one when it was answered: `time name event method path`.
"""

import base64
import hashlib
import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

NAME = os.environ["STAND_IN"]
lock = threading.Lock()


def note(event: str, method: str, path: str) -> None:
    with lock, Path("/journal/lines").open("a") as journal:
        journal.write(f"{time.time():.4f} {NAME} {event} {method} {path}\n")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.headers.get("Upgrade", "").lower() == "websocket":
            self.echo()
            return
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        note("began", self.command, self.path)
        parts = urlsplit(self.path)
        if parts.path == "/breaks":
            self.close_connection = True
            return
        time.sleep(float(parse_qs(parts.query).get("sleep", ["0.02"])[0]))
        facts = {"name": NAME, "port": self.server.server_port, "headers": dict(self.headers)}
        body = json.dumps(facts | {"padding": " " * 2000}).encode()
        note("answered", self.command, self.path)
        self.send_response(int(parse_qs(parts.query).get("status", ["200"])[0]))
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def echo(self) -> None:
        seed = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header(
            "Sec-WebSocket-Accept",
            base64.b64encode(hashlib.sha1(seed.encode(), usedforsecurity=False).digest()).decode(),
        )
        self.end_headers()
        self.close_connection = True
        while line := self.rfile.readline():
            self.connection.sendall(line.strip() + f" {self.server.server_port}\n".encode())

    def log_message(self, *arguments: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 128


servers = [Server(("", int(port)), Handler) for port in sys.argv[1:]]
for server in servers[1:]:
    threading.Thread(target=server.serve_forever, daemon=True).start()
servers[0].serve_forever()
