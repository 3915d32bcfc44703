"""Runs inside an Odoo container, by the Python that runs Odoo itself: load what takes long to load, wait until its turn
has come, then be Odoo. So the seconds of loading are over before anybody waits for them.

    in_the_wings.py GATE PROGRAM [ARGUMENT ...]

It waits for the file GATE, which stays: started again, it waits no more. Nothing of the database is touched before.
"""

import contextlib
import importlib
import runpy
import shutil
import signal
import sys
import time
from pathlib import Path

HEAVY = (
    *("odoo.cli.server", "odoo.http", "odoo.service.server", "odoo.modules.registry"),
    *("babel.dates", "bs4", "docutils.core", "lxml.html", "num2words", "OpenSSL", "PIL.Image", "pypdf", "qrcode"),
    *("reportlab.graphics.barcode", "requests", "vobject"),
)
"""Of Odoo, and what `base` and `web` import from elsewhere; what an image lacks is left out."""
LOOK_SECONDS = 0.02


def _end(*_: object) -> None:
    sys.exit(0)


def main(gate: str, program: str, *arguments: str) -> None:
    path = shutil.which(program) or sys.exit(f"{program} is not in this image")
    sys.argv = [path, *arguments]
    sys.path[0] = str(Path(path).parent)
    # As process 1 it would not hear of it without a handler.
    before = signal.signal(signal.SIGTERM, _end)
    for name in HEAVY:
        with contextlib.suppress(Exception):  # Odoo itself says what is wrong, when its turn has come
            importlib.import_module(name)
    while not Path(gate).exists():
        time.sleep(LOOK_SECONDS)
    signal.signal(signal.SIGTERM, before)
    runpy.run_path(path, run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:])
