"""The examples build, on both stores, with the same ids and the same files."""

import shutil
import subprocess
from pathlib import Path

import pytest
from support.command import Command
from support.images import debian_tarball
from test_same_result import listing

TOP = Path(__file__).parents[1]


# What apt and dpkg write with the time in it, or in an order of their own.
VOLATILE = ("var/log/", "var/cache/", "var/lib/apt/", "etc/ld.so.cache", "var/lib/dpkg/")


@pytest.mark.timeout(900)
@pytest.mark.slow
def test_a_debian_package_builds_alike_on_btrfs_and_rsync(
    obuilder: Command, btrfs_root: Path
) -> None:
    spec = TOP / "examples" / "debian-package" / "hello.spec"
    copy = obuilder.directory / "hello.spec"
    copy.write_bytes(spec.read_bytes())
    shutil.copy(debian_tarball(), obuilder.directory / "debian.tar")
    found = {}
    for store in (f"btrfs:{btrfs_root}", f"rsync:{obuilder.directory}/store"):
        obuilder.store = store
        done = subprocess.run(
            obuilder.argv("build", "-f", str(copy), "--id-file", str(obuilder.directory / "id"))
            + [str(obuilder.source)],
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
            cwd=obuilder.directory,
            env=obuilder.environment(),
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr
        assert "\nbuilt from source\n" in done.stdout
        ident = (obuilder.directory / "id").read_text().strip()
        root = Path(store.partition(":")[2]) / "result" / ident / "rootfs"
        files = {
            name: entry for name, entry in listing(root).items() if not name.startswith(VOLATILE)
        }
        found[store] = (ident, files)
    first, second = found.values()
    assert first[0] == second[0]
    assert first[1] == second[1]
