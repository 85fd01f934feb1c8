"""The tracker with the real wandb: offline, against a server on this machine, and with no server to speak of."""

import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from graftwork.training.wandb_tracker import WandbTracker

TRAINER = """
import os, pathlib, signal, sys, time
from graftwork.training.wandb_tracker import WandbTracker
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started the tests may ignore it
before = sys.exit, sys.excepthook, dict(os.environ)
def warn(line): print(line, file=sys.stderr)
tracker = WandbTracker({"seed": 3}, pathlib.Path(sys.argv[1]), "p", mode="online", warn=warn)
try:
    print("ready", flush=True)
    for step in (100, 200, 300):
        tracker.log({"train/loss": 1 / step}, step)
        time.sleep(float(sys.argv[2]))
    code = 7
except KeyboardInterrupt:
    code = 130
print(time.time(), flush=True)
tracker.close(code)
assert before == (sys.exit, sys.excepthook, dict(os.environ)) and "wandb" not in sys.modules
sys.exit(code)
"""

KEY = "0123456789" * 4

READ_OFFLINE = """
import json, sys
from wandb.proto.wandb_internal_pb2 import Record

# Records in LevelDB's log format: blocks of 32 KiB, each part with checksum (4), length (2) and type (1).
data, position, part, result = open(sys.argv[1], "rb").read(), 7, b"", {"config": {}, "rows": [], "exit": None}
while position + 7 <= len(data):
    left = 32768 - position % 32768
    if left < 7:
        position += left
        continue
    size, kind = int.from_bytes(data[position + 4 : position + 6], "little"), data[position + 6]
    part += data[position + 7 : position + 7 + size]
    position += 7 + size
    if kind not in (1, 4):
        continue
    record, part = Record.FromString(part), b""
    if record.HasField("run"):
        result["id"] = record.run.run_id
        result["config"] |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
    if record.HasField("history"):
        row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        result["rows"].append([record.history.step.num, row])
    if record.HasField("exit"):
        result["exit"] = record.exit.exit_code
print(json.dumps(result))
"""


@pytest.fixture(autouse=True)
def isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("WANDB_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "home" / ".netrc"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")  # wandb's own telemetry


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def wait_for(claim: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def start_trainer(run_dir: Path, seconds_per_step: float) -> "subprocess.Popen[str]":
    """A trainer in a process group of its own, which has made its tracker."""
    trainer = subprocess.Popen(
        [sys.executable, "-c", TRAINER, str(run_dir), str(seconds_per_step)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    assert trainer.stdout is not None
    assert trainer.stdout.readline() == "ready\n"
    return trainer


def end_of(trainer: "subprocess.Popen[str]") -> tuple[int, str, float]:
    """Exit status, standard error, and seconds from before `close` to the end of the process and of its output."""
    out, err = trainer.communicate(timeout=60)
    return trainer.returncode, err, time.time() - float(out)


class Server(ThreadingHTTPServer):
    """As much of a W&B server as a run needs; remembers each run's config and history."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.config: dict[str, Any] = {}
        self.history: dict[str, list[Any]] = {}
        self.exit_codes: list[int] = []

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # which is only the other end going away
            super().handle_error(request, client_address)  # type: ignore[arg-type]

    def graphql(self, operation: str, variables: dict[str, Any]) -> dict[str, Any]:
        project = {"id": "p1", "name": "p", "entity": {"id": "e1", "name": "team"}}
        if operation == "UpsertBucket":
            run_id, config = variables["name"], variables["config"]
            if config:
                self.config[run_id] = json.loads(config)
            bucket = {"id": "b1", "name": run_id, "displayName": "name", "config": config or "{}", "project": project}
            return {"upsertBucket": {"bucket": bucket | {"historyLineCount": 0}, "inserted": True}}
        if operation == "RunResumeStatus":
            rows = self.history.get(variables["name"])
            if not rows:
                return {"model": None}
            bucket = {"id": "b1", "name": variables["name"], "displayName": "name", "config": "{}", "tags": []}
            bucket |= {"historyLineCount": len(rows), "historyTail": json.dumps([json.dumps(rows[-1])])}
            bucket |= {"summaryMetrics": json.dumps(rows[-1]), "logLineCount": 0, "eventsLineCount": 0}
            return {"model": project | {"bucket": bucket | {"eventsTail": "[]", "wandbConfig": '{"t": 1}'}}}
        if operation == "CreateRunFiles":
            files = [{"name": name, "uploadUrl": f"{self.url}/upload"} for name in variables["files"]]
            return {"createRunFiles": {"runID": "b1", "uploadHeaders": [], "files": files}}
        return {}

    def stream(self, run_id: str, body: dict[str, Any]) -> None:
        history = body.get("files", {}).get("wandb-history.jsonl")
        if history:
            rows = self.history.setdefault(run_id, [])
            rows[history["offset"] :] = [json.loads(row) for row in history["content"]]
        if body.get("complete"):
            self.exit_codes.append(body["exitcode"])


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        answer: dict[str, Any] = {}
        if self.path == "/graphql":
            query = json.loads(body)
            answer = {"data": self.server.graphql(query["operationName"], query.get("variables", {}))}
        elif self.path.endswith("/file_stream"):
            self.server.stream(self.path.split("/")[-2], json.loads(body))
        reply = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    do_PUT = do_POST

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_online_config_history_and_exit_code_arrive_and_a_resume_continues_them(run_dir: Path, server: Server) -> None:
    for steps in ((100, 200, 300), (200, 300, 400, 500)):  # 200 and 300 were undone and are sent again
        tracker = WandbTracker({"agent": {"rate": 0.5}, "seed": 3}, run_dir, "p", warn=pytest.fail, patience=30.0)
        for step in steps:
            tracker.log({"train/loss": 1 / step, "evaluation/return": 7.0}, step)
        tracker.close(5)
    run_id = json.loads((run_dir / "wandb.json").read_text())["run_id"]
    assert list(server.history) == list(server.config) == [run_id]
    assert server.config[run_id]["agent"] == {"value": {"rate": 0.5}}
    assert server.config[run_id]["seed"] == {"value": 3}
    assert [(row["_step"], row["environment_steps"]) for row in server.history[run_id]] == [
        (step, step) for step in (100, 200, 300, 400, 500)
    ]
    assert [row["train/loss"] for row in server.history[run_id]] == [1 / step for step in (100, 200, 300, 400, 500)]
    assert {row["evaluation/return"] for row in server.history[run_id]} == {7.0}
    assert server.exit_codes == [5, 5]


def test_an_offline_run_lies_in_the_run_directory_with_its_config_and_rows(run_dir: Path) -> None:
    tracker = WandbTracker({"seed": 3}, run_dir, "p", mode="offline", warn=pytest.fail, patience=30.0)
    tracker.log({"train/loss": 0.5}, 300)
    tracker.log({"train/loss": 0.25}, 500)
    tracker.close(3)
    (path,) = run_dir.glob("wandb/offline-run-*/*.wandb")
    command = [sys.executable, "-W", "ignore", "-c", READ_OFFLINE, str(path)]
    stored = json.loads(subprocess.run(command, timeout=60, check=True, capture_output=True).stdout)
    assert stored["id"] == json.loads((run_dir / "wandb.json").read_text())["run_id"]
    assert stored["config"]["seed"] == 3
    assert [(step, row["environment_steps"], row["train/loss"]) for step, row in stored["rows"]] == [
        (300, 300, 0.5),
        (500, 500, 0.25),
    ]
    assert stored["exit"] == 3


def test_a_killed_trainer_loses_nothing_that_it_logged(run_dir: Path, server: Server) -> None:
    trainer = start_trainer(run_dir, 60.0)
    wait_for(lambda: server.config)
    trainer.kill()
    trainer.communicate(timeout=20)
    wait_for(lambda: server.exit_codes)
    ((row,),) = server.history.values()
    assert (row["_step"], row["train/loss"]) == (100, 0.01)
    assert server.exit_codes == [1]


def test_ctrl_c_reaches_the_trainer_alone(run_dir: Path, server: Server) -> None:
    trainer = start_trainer(run_dir, 60.0)
    wait_for(lambda: server.config)
    os.killpg(trainer.pid, signal.SIGINT)
    status, err, _ = end_of(trainer)
    wait_for(lambda: server.exit_codes)
    assert (status, err) == (130, "")
    assert server.exit_codes == [130]


@pytest.mark.parametrize("trouble", ["no key", "closed port", "silence"])
def test_without_w_and_b_the_process_says_so_once_and_exits_as_it_would(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and never answers
        port = silent.getsockname()[1] if trouble == "silence" else 9
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("WANDB_INIT_TIMEOUT", "8")  # so that little is left to run after this test
        if trouble != "no key":
            monkeypatch.setenv("WANDB_API_KEY", KEY)
        status, err, seconds = end_of(start_trainer(run_dir, 0.1))
    assert status == 7
    assert err.startswith("W&B: ")
    assert err.count("\n") == 1
    assert seconds < 5


@pytest.mark.parametrize(
    ("key", "said"),
    [(None, "UsageError: No API key configured"), (KEY, "CommError: ")],
    ids=["no key", "closed port"],
)
def test_what_is_wrong_is_said_while_training_goes_on(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, key: str | None, said: str
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # a port that nothing listens on
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "1")
    if key:
        monkeypatch.setenv("WANDB_API_KEY", key)
    lines: list[str] = []
    tracker = WandbTracker({}, run_dir, mode="online", warn=lines.append)

    def log() -> bool:
        tracker.log({"x": 1.0}, 3)
        return bool(lines)

    wait_for(log)
    tracker.close()
    assert len(lines) == 1
    assert lines[0].startswith(f"W&B: {said}")
