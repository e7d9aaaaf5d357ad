"""The generated modules are what their sources say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import trio_sup.protocol
from trio_sup.protocol import backend_pb2, health_pb2
from trio_sup.protocol.address import join_address, split_address

HERE = Path(trio_sup.protocol.__file__).parent


@pytest.mark.parametrize("name", ["backend", "health"])
def test_generated_modules_are_up_to_date(name: str, tmp_path: Path) -> None:
    source = (HERE / f"{name}.proto").read_text()
    (tmp_path / f"{name}.proto").write_text(source)
    commands = re.findall(r"^//   (.+)$", source, flags=re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        command = command.replace("python ", f"{sys.executable} ", 1)
        subprocess.run(command, shell=True, cwd=tmp_path, check=True, timeout=60)
    for suffix in ("py", "pyi"):
        assert (tmp_path / f"{name}_pb2.{suffix}").read_text() == (HERE / f"{name}_pb2.{suffix}").read_text()


def test_contract_is_complete() -> None:
    service = backend_pb2.DESCRIPTOR.services_by_name["Backend"]
    assert service.full_name == "backend.Backend"
    assert len(service.methods) == 52
    fields = backend_pb2.DESCRIPTOR.message_types_by_name
    assert {field.name: field.number for field in fields["Reply"].fields}["chat_deltas"] == 8
    assert fields["ModelOptions"].fields_by_name["EnableScore"].number == 75
    assert fields["PredictOptions"].fields_by_name["ModelIdentity"].number == 54
    assert health_pb2.DESCRIPTOR.services_by_name["Health"].full_name == "grpc.health.v1.Health"


def test_other_modules_may_define_the_same_names(tmp_path: Path) -> None:
    (tmp_path / "backend.proto").write_text('syntax = "proto3"; package backend; message Reply { string other = 9; }')
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", "--python_out=.", "backend.proto"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=60)
    code = (
        "import backend_pb2, grpc_health.v1.health_pb2\n"
        "from trio_sup.protocol import backend_pb2 as ours, health_pb2\n"
        "assert ours.Reply(message=b'OK').message and backend_pb2.Reply(other='x').other"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=60)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("localhost:50051", "localhost", 50051), ("0.0.0.0:0", "0.0.0.0", 0), ("[::1]:65535", "::1", 65535)],
)
def test_addresses_are_read_and_written(text: str, host: str, port: int) -> None:
    assert split_address(text) == (host, port)
    assert join_address(host, port) == text


@pytest.mark.parametrize("text", ["", "x", ":1", "x:", "x:-1", "x:65536", "x:１", "::1:5", "[x:5", "[]:5", "[::1]5"])
def test_nonsense_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="expected host:port"):
        split_address(text)
