"""The gRPC contract keeps its style and its promises, and the check of both can fail."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.rpc import status_pb2

CONTRACT = Path("microtome/v1/embedding.proto")


@pytest.fixture
def protos(repository: Path, tmp_path: Path) -> Path:
    """A copy of the contracts, to be changed."""
    return Path(shutil.copytree(repository / "protos", tmp_path / "protos"))


def check(repository: Path, protos: Path, *words: str) -> tuple[int, str]:
    """The exit code and the words of the check of these contracts."""
    program = [sys.executable, str(repository / "protos" / "contract.py"), "--protos", str(protos), *words]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


def change(protos: Path, old: str, new: str) -> None:
    """Change the contract."""
    text = (protos / CONTRACT).read_text()
    assert old in text
    (protos / CONTRACT).write_text(text.replace(old, new))


def test_the_contract_is_as_it_should_be(repository: Path) -> None:
    """What is committed passes."""
    assert (0, "") == check(repository, repository / "protos")


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("bool normalize = 4;", "bool normalise = 4;", "normalise"),
        ("bool normalize = 4;", "bool normalize = 14;", "deleted"),
        ("bool normalize = 4;", "int32 normalize = 4;", "type"),
        ("  rpc GetModel(GetModelRequest) returns (GetModelResponse);\n", "", "GetModel"),
        ("stream EmbedStreamRequest", "EmbedStreamRequest", "streaming"),
        ("DTYPE_BINARY = 4;", "", '"Dtype"'),
        ("string default_output = 6;", "string defaultOutput = 6;", "lower_snake_case"),
    ],
    ids=["renamed", "renumbered", "retyped", "method gone", "stream gone", "value gone", "unusual style"],
)
def test_what_would_break_callers_fails(repository: Path, protos: Path, old: str, new: str, word: str) -> None:
    """With what it is, and leaves the promise as it was."""
    promised = (protos / CONTRACT).with_suffix(".binpb").read_bytes()
    change(protos, old, new)
    code, words = check(repository, protos, "--write")
    assert 1 == code
    assert word in words
    assert promised == (protos / CONTRACT).with_suffix(".binpb").read_bytes()


def test_plain_protoc_compiles_it(protos: Path, tmp_path: Path) -> None:
    """With nothing beside protos/ but what protoc brings along; languages that need a package's name find it."""
    out = tmp_path / "out.binpb"
    files = sorted(str(path.relative_to(protos)) for path in protos.rglob("*.proto"))
    assert str(CONTRACT) in files
    words = [sys.executable, "-m", "grpc_tools.protoc", "-I.", "--include_imports", f"--descriptor_set_out={out}"]
    done = subprocess.run([*words, *files], cwd=protos, capture_output=True, text=True, check=False)
    assert (0, "") == (done.returncode, done.stderr)
    found = {file.name: file for file in FileDescriptorSet.FromString(out.read_bytes()).file}
    assert "microtome/v1;microtomev1" == found[str(CONTRACT)].options.go_package
    # The copy is what the gateway's own package describes.
    described = FileDescriptorProto()
    status_pb2.DESCRIPTOR.CopyToProto(described)
    ours = found["google/rpc/status.proto"]
    assert [(f.name, f.number, f.type) for f in described.message_type[0].field] == [
        (f.name, f.number, f.type) for f in ours.message_type[0].field
    ]


def test_an_addition_is_taken_up(repository: Path, protos: Path) -> None:
    """It fails until the descriptor has it, and from then on it is promised."""
    change(protos, "bool normalize = 4;", "bool normalize = 4;\n  bool another = 99;")
    code, words = check(repository, protos)
    assert (1, True) == (code, "make protos" in words)
    assert (0, "") == check(repository, protos, "--write")
    change(protos, "\n  bool another = 99;", "")
    assert 1 == check(repository, protos)[0]
