"""Certificates for tests of encryption, made by openssl when they are needed: they last for two days."""

import shutil
import subprocess
from pathlib import Path

import pytest


def make_certificates(directory: Path) -> None:
    """Write an authority `ca`, and a `server` and a `client` that it has signed for localhost: each a .key and a .pem.

    Skips the test where there is no openssl.
    """
    if not (openssl := shutil.which("openssl")):
        pytest.skip("openssl, which makes the certificates, is not installed")
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    make = [openssl, "req", "-x509", *curve, "-nodes", "-days", "2"]
    for name in ("ca", "server", "client"):
        words = ["-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem"]
        if name != "ca":
            words += ["-CA", "ca.pem", "-CAkey", "ca.key", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
        subprocess.run([*make, *words], cwd=directory, check=True, capture_output=True)
