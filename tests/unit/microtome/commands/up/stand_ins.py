"""Small real programs that behave like the gateway and the model server as far as `microtome up` can see."""

import sys
from pathlib import Path

from microtome.commands.up.addresses import Endpoint
from microtome.commands.up.plan import Plan
from microtome.commands.up.processes import Command

GATEWAY = """
import http.server, pathlib, signal, sys
port, socket, ready, journal = int(sys.argv[1]), *map(pathlib.Path, sys.argv[2:5])

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        status = 200 if socket.exists() and ready.exists() else 503
        self.send_response(status)
        self.end_headers()
        if status == 503:
            self.wfile.write(b'{"ready": false, "models": {"lite0": "told to wait"}}')

    def log_message(self, *arguments):
        pass

def stop(*arguments):
    with journal.open("a") as lines:
        lines.write("gateway stopped\\n")
    sys.exit(0)

signal.signal(signal.SIGTERM, stop)
http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever(0.02)
"""

MODEL_SERVER = """
import pathlib, signal, socket, sys
path, journal = sys.argv[1], pathlib.Path(sys.argv[2])

def stop(*arguments):
    with journal.open("a") as lines:
        lines.write("model server stopped\\n")
    sys.exit(0)

def write(line):
    with journal.open("a") as lines:
        lines.write(line + "\\n")

signal.signal(signal.SIGTERM, stop)
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
listener.listen()
print("model server open", flush=True)
write("model server open")
while True:
    signal.pause()
"""

HOPELESS = "import sys; print('no such model: nope', flush=True); sys.exit(3)"

STUBBORN = """
import pathlib, signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(grandchild.pid, flush=True)
pathlib.Path(sys.argv[1]).touch()
while True:
    signal.pause()
"""


def python(name: str, program: str, *words: object) -> Command:
    """A command that runs `program`, quickly: without site packages."""
    return Command(name, (sys.executable, "-I", "-S", "-c", program, *map(str, words)))


def plan(directory: Path, port: int, model_server: Command | None = None) -> Plan:
    """Both stand-ins in `directory`; the gateway is ready once the socket and the file `ready` exist."""
    socket, journal = directory / "m.sock", directory / "journal"
    return Plan(
        models=("lite0",),
        endpoint=Endpoint("127.0.0.1", port),
        gateway=python("gateway", GATEWAY, port, socket, directory / "ready", journal),
        model_server=model_server or python("model server", MODEL_SERVER, socket, journal),
        socket=socket,
    )
