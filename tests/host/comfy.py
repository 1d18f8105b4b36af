"""Start a real ComfyUI in a throw-away folder and talk to it over HTTP. Standard library only."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Prompt = dict[str, dict[str, Any]]
Outputs = dict[str, dict[str, Any]]

FLAGS = ("--cpu", "--disable-auto-launch", "--disable-api-nodes", "--database-url", "sqlite:///:memory:")
FOLDERS = ("custom_nodes", "input", "output", "models", "user/default")
SETTINGS = {"Comfy.TutorialCompleted": True}  # else a first visit opens the templates browser over the graph


class ComfyError(RuntimeError):
    """The host refused or failed: the text holds what it said."""


class ComfyInterrupted(ComfyError):
    """The prompt was stopped by an interrupt."""


class ComfyServer:
    """A ComfyUI process whose models, input, output, custom nodes and user data live in a temporary folder.

    Args:
        checkout: folder of a ComfyUI checkout (holds main.py).
        python: interpreter that has ComfyUI's requirements.
        packs: name under custom_nodes -> folder of a node pack, linked in.
        inputs: name in the input folder -> file, copied in.
        models: name below the models folder (for example "dpe/a.safetensors") -> file, linked in.
        timeout: seconds to wait for the start.
    """

    def __init__(
        self,
        checkout: Path,
        python: str,
        packs: Mapping[str, Path] | None = None,
        inputs: Mapping[str, Path] | None = None,
        models: Mapping[str, Path] | None = None,
        timeout: float = 180.0,
    ):
        if not (checkout / "main.py").is_file():
            raise ComfyError(f"{checkout} is no ComfyUI checkout: it has no main.py")
        self.checkout = checkout
        self.python = python
        self.packs = dict(packs or {})
        self.inputs = dict(inputs or {})
        self.models = dict(models or {})
        self.timeout = timeout
        self.base = Path()
        self.url = ""
        self._process: subprocess.Popen[bytes] | None = None

    # Life

    def __enter__(self) -> ComfyServer:
        self.base = Path(tempfile.mkdtemp(prefix="comfy-test-"))
        try:
            self._furnish()
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        shutil.rmtree(self.base, ignore_errors=True)

    def _furnish(self) -> None:
        for folder in FOLDERS:
            (self.base / folder).mkdir(parents=True)
        (self.base / "user/default/comfy.settings.json").write_text(json.dumps(SETTINGS))
        for name, folder in self.packs.items():
            (self.base / "custom_nodes" / name).symlink_to(folder.resolve(), target_is_directory=True)
        for name, source in self.inputs.items():
            shutil.copyfile(source, self.base / "input" / name)
        for name, source in self.models.items():
            target = self.base / "models" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(source.resolve())

    def _start(self) -> None:
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        # Without PYTHONPATH, so that a pack which imports itself by an absolute name fails here as it does for users.
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"PYTHONUNBUFFERED": "1"}
        command = [self.python, "main.py", *FLAGS, "--listen", "127.0.0.1", "--port", str(port)]
        with (self.base / "log.txt").open("wb") as log:
            self._process = subprocess.Popen(
                [*command, "--base-directory", str(self.base)],
                cwd=self.checkout,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + self.timeout
        while not self._answers():
            if self._process.poll() is not None:
                raise ComfyError(
                    f"ComfyUI ended with code {self._process.returncode} while starting:\n{self.log_tail()}"
                )
            if time.monotonic() > deadline:
                raise ComfyError(f"ComfyUI did not answer within {self.timeout:.0f} s:\n{self.log_tail()}")
            time.sleep(0.2)

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            self.get("/system_stats")
            return True
        return False

    # Log

    @property
    def logs(self) -> str:
        """Everything the host has printed so far."""
        return (self.base / "log.txt").read_text(errors="replace")

    def log_tail(self, lines: int = 40) -> str:
        """The last lines of the log."""
        return "\n".join(self.logs.splitlines()[-lines:])

    # HTTP

    def open(self, path: str, data: bytes | None = None, kind: str = "application/json") -> tuple[int, str, bytes]:
        """GET path, or POST data to it: status, content type and body. HTTP errors are answers here, not exceptions."""
        headers = {"Content-Type": kind} if data is not None else {}
        request = urllib.request.Request(self.url + path, data=data, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                return reply.status, reply.headers.get_content_type(), reply.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers.get_content_type(), error.read()

    def get(self, path: str) -> Any:
        """The JSON answer to a GET; ComfyError on any status but 200."""
        status, _, body = self.open(path)
        if status != 200:
            raise ComfyError(f"GET {path}: HTTP {status}: {body.decode(errors='replace')[:500]}")
        return json.loads(body)

    def object_info(self) -> dict[str, dict[str, Any]]:
        """Every node the host knows, by id."""
        return self.get("/object_info")

    # Work

    def upload(self, path: Path) -> str:
        """Put a file into the input folder as the front end does; the name that the host gave it."""
        boundary = uuid.uuid4().hex
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{path.name}"\r\n\r\n'
        body = head.encode() + path.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
        status, _, reply = self.open("/upload/image", body, f"multipart/form-data; boundary={boundary}")
        if status != 200:
            raise ComfyError(f"upload of {path.name}: HTTP {status}: {reply.decode(errors='replace')}")
        return json.loads(reply)["name"]

    def submit(self, prompt: Prompt) -> str:
        """Queue an API-format prompt; its id. ComfyError with the host's words when it is not valid."""
        status, _, body = self.open("/prompt", json.dumps({"prompt": prompt}).encode())
        if status != 200:
            raise ComfyError(_refusal(status, body))
        return json.loads(body)["prompt_id"]

    def wait(self, prompt_id: str, timeout: float = 600.0) -> Outputs:
        """Wait for a queued prompt: node id -> what the node showed (`images`, `text`, ...)."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            entry = self.get(f"/history/{prompt_id}").get(prompt_id)
            if entry is not None:
                _raise_failure(entry["status"])
                return entry["outputs"]
            if self._process is not None and self._process.poll() is not None:
                raise ComfyError(f"ComfyUI died with code {self._process.returncode}:\n{self.log_tail()}")
            time.sleep(0.1)
        raise ComfyError(f"no result within {timeout:.0f} s:\n{self.log_tail()}")

    def queue(self, prompt: Prompt, timeout: float = 600.0) -> Outputs:
        """Submit and wait."""
        return self.wait(self.submit(prompt), timeout)

    def interrupt(self) -> None:
        """Ask the running prompt to stop."""
        self.open("/interrupt", b"{}")

    def running(self) -> bool:
        """Whether a prompt is being executed now."""
        return bool(self.get("/queue")["queue_running"])

    def files(self, outputs: Outputs) -> list[Path]:
        """The files that outputs name, wherever in a node's answer they stand."""
        found = []
        for shown in outputs.values():
            for items in shown.values():
                for item in items if isinstance(items, list) else ():
                    if isinstance(item, dict) and "filename" in item:
                        found.append(
                            self.base / item.get("type", "output") / item.get("subfolder", "") / item["filename"]
                        )
        return found


def note_lines(shown: Mapping[str, Any]) -> list[str]:
    """The lines of the note that one of the pack's nodes shows: one text, which the queue's history counts once."""
    (text,) = shown["dpe_note"]
    return text.splitlines()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _refusal(status: int, body: bytes) -> str:
    try:
        answer = json.loads(body)
    except ValueError:
        return f"prompt refused: HTTP {status}: {body.decode(errors='replace')[:500]}"
    lines = [f"prompt refused: {answer['error']['message']} {answer['error']['details']}".rstrip()]
    for node_id, report in answer.get("node_errors", {}).items():
        for error in report["errors"]:
            lines.append(f"  node {node_id} ({report['class_type']}): {error['message']}: {error['details']}")
    return "\n".join(lines)


def _raise_failure(status: Mapping[str, Any]) -> None:
    for event, detail in status["messages"]:
        if event == "execution_interrupted":
            raise ComfyInterrupted(f"interrupted at node {detail['node_id']} ({detail['node_type']})")
        if event == "execution_error":
            trace = "".join(detail.get("traceback", ()))
            where = f"node {detail['node_id']} ({detail['node_type']})"
            raise ComfyError(f"{where}: {detail['exception_type']}: {detail['exception_message'].rstrip()}\n{trace}")
    if status["status_str"] != "success":
        raise ComfyError(f"prompt ended as {status['status_str']}")
