"""A client that keeps writing through the edge, in a process of its own that nobody kills: each title that was answered
with 201 becomes a line of the ledger, after the answer.

argv: the edge's address, the environment's host, the path that takes writes, the ledger's path, writes per second.
"""

import http.client
import json
import os
import sys
import threading
import time
from pathlib import Path

address, host, path_of_writes, path, rate = *sys.argv[1:4], Path(sys.argv[4]), float(sys.argv[5])
lock = threading.Lock()
waiting = threading.Semaphore(40)


def write(title: str) -> None:
    try:
        connection = http.client.HTTPConnection(address, timeout=60)
        connection.request("POST", path_of_writes, json.dumps({"title": title}), {"Host": host})
        if connection.getresponse().status == 201:
            with lock, path.open("a") as ledger:
                ledger.write(title + "\n")
    except (OSError, http.client.HTTPException):
        pass  # no answer is no promise
    finally:
        waiting.release()


number = 0
born = int(time.time() * 1000)
parent = os.getppid()
while os.getppid() == parent:  # it ends with the test
    time.sleep(1 / rate)
    if waiting.acquire(blocking=False):
        number += 1
        threading.Thread(target=write, args=[f"{born}-{number}"], daemon=True).start()
