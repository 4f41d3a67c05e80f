"""Build sdist and wheel so that one commit always gives the same bytes.

    python .ci/build.py            # into dist/
    python .ci/build.py --check    # the same, and once more to compare

Times are the commit's, or SOURCE_DATE_EPOCH where it is set; owners and modes are fixed. The wheel
is built from the sdist, as pip would. The version of setuptools is part of what must be the same.
"""

import argparse
import gzip
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def build(target: Path, *options: str) -> None:
    """Write one sdist and one wheel into `target`."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH") or _run("git", "log", "-1", "--format=%ct")
    os.environ["SOURCE_DATE_EPOCH"] = epoch
    os.umask(0o022)
    with tempfile.TemporaryDirectory() as folder:
        raw, unpacked = Path(folder, "raw"), Path(folder, "unpacked")
        _run(sys.executable, "-m", "build", "--sdist", "--outdir", str(raw), *options, ".")
        (sdist,) = raw.iterdir()
        target.mkdir(parents=True, exist_ok=True)
        repack(sdist, target / sdist.name, int(epoch))
        with tarfile.open(target / sdist.name) as archive:
            archive.extractall(unpacked, filter="data")
        (source,) = unpacked.iterdir()
        wheel_options = ["--wheel", "--outdir", str(target.resolve()), *options]
        _run(sys.executable, "-m", "build", *wheel_options, str(source))


def repack(source: Path, target: Path, epoch: int) -> None:
    """Copy a .tar.gz with its entries sorted, and no names or times."""
    with (
        tarfile.open(source) as old,
        target.open("wb") as file,
        gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=epoch) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as new,
    ):
        for entry in sorted(old.getmembers(), key=lambda entry: entry.name):
            entry.mtime, entry.uid, entry.gid, entry.uname, entry.gname = epoch, 0, 0, "", ""
            entry.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
            entry.pax_headers = {}
            new.addfile(entry, old.extractfile(entry) if entry.isfile() else None)


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of each file."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
    }


def _run(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE)
    return done.stdout.strip()


def main() -> None:
    """Build, and compare with another build."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="build once more and compare")
    parser.add_argument("--no-isolation", action="store_true", help="use what is installed")
    arguments = parser.parse_args()
    options = ["--no-isolation"] if arguments.no_isolation else []
    dist = ROOT / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    build(dist, *options)
    built = hashes(dist)
    if arguments.check:
        with tempfile.TemporaryDirectory() as folder:
            build(Path(folder), *options)
            again = hashes(Path(folder))
        if built != again:
            sys.exit(f"two builds differ: {built} and {again}")
    for name, digest in built.items():
        print(f"{digest}  {name}")


if __name__ == "__main__":
    main()
