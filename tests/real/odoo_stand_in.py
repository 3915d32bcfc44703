#!/usr/bin/env python3
"""A small stand-in for Odoo, called as `odoo`: reads its configuration, and answers 200 where its database answers."""

import configparser
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psycopg2

parser = configparser.RawConfigParser()
parser.read(next(one for one in sys.argv if one.startswith("--config=")).partition("=")[2])
options = parser["options"]
names = {"host": "db_host", "port": "db_port", "user": "db_user", "password": "db_password", "dbname": "db_name"}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        try:
            connection = psycopg2.connect(connect_timeout=3, **{key: options[name] for key, name in names.items()})
            connection.cursor().execute("SELECT 1")
            connection.close()
            status, body = 200, b'<form class="oe_login_form"></form>'
        except psycopg2.Error as error:
            status, body = 500, str(error).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


ThreadingHTTPServer(("", 8069), Handler).serve_forever()
