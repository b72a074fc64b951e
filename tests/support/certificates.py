"""Certificates for tests that speak TLS."""

import subprocess
from pathlib import Path


def sign_itself(certificate: Path, key: Path, name: str = "localhost") -> None:
    """Write a certificate for `name` that signs itself, and its key."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-days", "2", "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}",
         "-out", str(certificate), "-keyout", str(key)],
        check=True,
        capture_output=True,
    )  # fmt: skip
