"""Throwaway keys and self-signed certificates of both kinds, made with the openssl command."""

import shutil
import subprocess

from measure.process import Failure, unprivileged
from measure.tools import tool

_KINDS = {"ecdsa": ["ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"], "rsa": ["rsa:2048"]}


class Certificates:
    """Files in a folder of their own, that the servers can read and nobody else."""

    def __init__(self, place):
        self._user = unprivileged()
        self._folder = place.folder("certificates", self._user)
        self._made = set()

    def files(self, kind):
        """The paths of a certificate and its key, made when first asked for."""
        certificate, key = self._folder / f"{kind}.crt", self._folder / f"{kind}.key"
        if kind not in self._made:
            command = [tool("openssl", "openssl"), "req", "-x509", "-newkey", *_KINDS[kind], "-nodes", "-days", "30", "-subj", "/CN=localhost",
                       "-keyout", key, "-out", certificate]
            done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
            if done.returncode != 0:
                raise Failure(f"openssl failed:\n{done.stderr[-2000:]}")
            key.chmod(0o600)
            if self._user is not None:
                shutil.chown(certificate, self._user)
                shutil.chown(key, self._user)
            self._made.add(kind)
        return certificate, key
