"""`make audit-deps` asks a database of vulnerabilities about every locked package; without an answer it fails."""

import json
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from visiontune.config.compose import config_dir

ROOT = config_dir().parent
HASH = "--hash=sha256:" + "0" * 64
# Names, and versions that are known to be bad.
KNOWN = {"lightning": "2.6.3"}


class Database(ThreadingHTTPServer):
    """Answers like OSV, and remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.asked: list[tuple[str, str]] = []


class Answer(BaseHTTPRequestHandler):
    server: Database

    def do_POST(self) -> None:
        query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name, version = query["package"]["name"], query["version"]
        self.server.asked.append((name, version))
        body: dict[str, Any] = {}
        if KNOWN.get(name) == version:
            affected = [{"package": {"name": name, "ecosystem": "PyPI"}, "versions": [version]}]
            body = {"vulns": [{"id": "MAL-1", "summary": "malware", "modified": "2026-05-01T00:00:00Z"}]}
            body["vulns"][0]["affected"] = affected
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def database() -> Iterator[Database]:
    server = Database()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def audit(lock: Path, url: str, cache: Path) -> subprocess.CompletedProcess[str]:
    """Run the command of the Makefile on another lock file."""
    make = ["make", "-n", "--no-print-directory", "-o", ".venv/.ready", "audit-deps", f"OSV_URL={url}"]
    (line,) = subprocess.run(make, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    program, *arguments = shlex.split(line)
    assert program == ".venv/bin/pip-audit" and "--strict" in arguments and "requirements.lock" in arguments
    arguments = [str(lock) if argument == "requirements.lock" else argument for argument in arguments]
    command = [sys.executable, "-m", "pip_audit", *arguments, "--cache-dir", str(cache), "--timeout", "2"]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.slow
def test_every_locked_package_is_looked_up(database: Database, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{database.server_port}/v1/query"
    lock = tmp_path / "requirements.lock"
    lock.write_text(f"pillow==13.0.0 \\\n    {HASH}\nlightning==2.6.6 \\\n    {HASH}\n    # via x\n")
    process = audit(lock, url, tmp_path / "cache")
    assert process.returncode == 0, process.stderr
    assert sorted(database.asked) == [("lightning", "2.6.6"), ("pillow", "13.0.0")]
    lock.write_text(f"lightning==2.6.3 {HASH}\n")
    process = audit(lock, url, tmp_path / "cache")
    assert process.returncode == 1 and "lightning" in process.stdout and "MAL-1" in process.stdout


@pytest.mark.slow
def test_an_audit_without_an_answer_fails(database: Database, tmp_path: Path) -> None:
    database.shutdown()
    database.server_close()
    (tmp_path / "requirements.lock").write_text(f"pillow==13.0.0 {HASH}\n")
    process = audit(tmp_path / "requirements.lock", f"http://127.0.0.1:{database.server_port}", tmp_path / "cache")
    assert process.returncode != 0 and "No known vulnerabilities found" not in process.stdout + process.stderr
