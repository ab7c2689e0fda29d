"""Generate the Python code of every contract under proto/ (`--check`: fail on drift instead)."""

from __future__ import annotations

import argparse
import sys
import tempfile
from importlib import resources
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
OUTPUTS = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi")


def contracts() -> list[str]:
    """Every contract, relative to proto/, sorted."""
    return sorted(str(p.relative_to(PROTO)) for p in PROTO.rglob("*.proto"))


def includes() -> list[str]:
    """Folders with the imports that are not ours: protobuf's own and googleapis."""
    import google.api

    googleapis = str(Path(next(iter(google.api.__path__))).parent.parent)
    return [str(PROTO), str(resources.files("grpc_tools") / "_proto"), googleapis]


def generate(out: Path) -> None:
    """Write messages, stubs and their types for all contracts below `out`."""
    from grpc_tools import protoc

    args = ["protoc", *(f"-I{folder}" for folder in includes())]
    args += [f"--{kind}_out={out}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
    if protoc.main([*args, *contracts()]) != 0:
        sys.exit("protoc failed")


def generated(base: Path) -> dict[str, bytes]:
    """Relative path to content of every generated file below `base`."""
    return {str(p.relative_to(base)): p.read_bytes() for pattern in OUTPUTS for p in base.rglob(pattern)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if the committed code differs")
    if not parser.parse_args().check:
        generate(PROTO)
        return
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        fresh, committed = generated(Path(folder)), generated(PROTO)
    stale = sorted(name for name in fresh.keys() | committed.keys() if fresh.get(name) != committed.get(name))
    if stale:
        sys.exit("generated code differs from its contract, run `python scripts/generate.py`:\n  " + "\n  ".join(stale))
    print(f"{len(committed)} generated files match their contracts")


if __name__ == "__main__":
    main()
