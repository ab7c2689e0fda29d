"""Lint every contract with buf, offline: protoc makes the descriptor set, imports included, and buf reads that."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from generate import PROTO, contracts, includes


def main() -> None:
    from grpc_tools import protoc

    with tempfile.TemporaryDirectory() as folder:
        image = str(Path(folder) / "contracts.binpb")
        paths = [f"-I{include}" for include in includes()]
        made = protoc.main(["protoc", *paths, "--include_imports", "--include_source_info", f"-o{image}", *contracts()])
        if made != 0:
            sys.exit("protoc failed")
        ours = [argument for path in contracts() for argument in ("--path", path)]
        found = subprocess.run(["buf", "lint", image, "--config", str(PROTO / "buf.yaml"), *ours], check=False)
    if found.returncode == 0:
        print(f"{len(contracts())} contracts are clean")
    sys.exit(found.returncode)


if __name__ == "__main__":
    main()
