"""SeaweedFS, an S3 server that is not moto: the benchmark measures with it, and the tests cross-check with it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.processes import free_ports, running
from benchmarks.web import HOST

WEED = Path(sys.executable).with_name("weed")  # where pip puts it
_SOCKETS = Path("/tmp")  # noqa: S108  (where SeaweedFS puts them, whatever TMPDIR says)


@contextmanager
def seaweedfs(folder: Path, access_key: str, secret: str) -> Iterator[str]:
    """Serve from ``folder``, without any bucket yet; yields the address, where it may not listen at once."""
    ports = free_ports(8)
    try:
        with running(_command(folder, ports, access_key, secret), folder / "s3.log"):
            yield f"http://{HOST}:{ports[0]}"
    finally:
        _remove_sockets(ports)


def _command(folder: Path, ports: Sequence[int], access_key: str, secret: str) -> list[str]:
    credentials = {"accessKey": access_key, "secretKey": secret}
    identity = {"name": "owner", "credentials": [credentials], "actions": ["Admin"]}
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": [identity]}), encoding="utf-8")
    data = folder / "s3"
    data.mkdir()
    names = ("s3.port", "s3.port.grpc", "master.port", "master.port.grpc", "volume.port", "volume.port.grpc")
    options = dict(zip((*names, "filer.port", "filer.port.grpc"), ports, strict=True))
    return [
        *(str(WEED), "-logtostderr", "server", "-s3", f"-s3.config={config}", f"-dir={data}"),
        *(f"-ip={HOST}", f"-ip.bind={HOST}", "-s3.port.iceberg=0", "-s3.port.lance=0"),
        *("-master.telemetry=false", "-master.volumeSizeLimitMB=2048", "-volume.max=64", "-volume.preStopSeconds=0"),
        *(f"-{name}={port}" for name, port in options.items()),
    ]


def _remove_sockets(ports: Sequence[int]) -> None:
    """Remove what SeaweedFS leaves behind: sockets named after its ports. Another server's are not touched."""
    for port in ports:
        for socket_file in _SOCKETS.glob(f"seaweedfs-*-{port}.sock"):
            socket_file.unlink(missing_ok=True)
