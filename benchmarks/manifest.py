"""What `manifest check` costs, beside a plain read of the same files.

    python benchmarks/manifest.py                   # all parts, about two minutes on two cores
    python benchmarks/manifest.py hashing --images 5000 --rounds 5
    python benchmarks/manifest.py check --rows 50000

Files come from the page cache, which favours the plain read: a disk slows both by the same time for each file.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from export import CLASSES, write_images
from limits import finish, verdict

SIDE = 112
DISTINCT = 400


def write_many(folder: Path, count: int) -> list[str]:
    """Write `count` different JPEGs: few images, each with a number behind its end, where JPEG allows anything."""
    made = [(folder / name).read_bytes() for name in write_images(folder, DISTINCT, SIDE)]
    (folder / "many").mkdir()
    names = []
    for number in range(count):
        names.append(f"many/{number:06d}.jpg")
        (folder / names[-1]).write_bytes(made[number % DISTINCT] + str(number).encode())
    return names


def read_plainly(folder: Path, names: list[str]) -> None:
    """Read every file to its end, one after the other."""
    for name in names:
        with open(f"{folder}/{name}", "rb") as file:
            file.read()


def hashing(images: int, rounds: int) -> None:
    """Compare hashing, and hashing with decoding, with a plain read, in turns."""
    from fer_mlflow.data.scan import scan_images

    print(f"hashing: {images:,} JPEGs of {SIDE} px, {os.cpu_count()} cores; best of {rounds}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        names = write_many(folder, images)
        ways = {
            "plain read": lambda: read_plainly(folder, names),
            "hash": lambda: scan_images(folder, names, decode=False),
            "hash and decode": lambda: scan_images(folder, names),
            "hash, decode and perceptual hash": lambda: scan_images(folder, names, perceptual=True),
        }
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, way in ways.items():
                began = time.perf_counter()
                way()
                rates[name].append(images / (time.perf_counter() - began))
    plain = max(rates["plain read"])
    for name, found in rates.items():
        rate = max(found)
        claim = verdict(rate / plain, 0.5, at_least=True) if name == "hash" else ""
        print(f"  {name:22} {rate:9,.0f} images/s   {rate / plain:5.2f} of the plain read  {claim}".rstrip())


CHILD = """
import json, resource, sys, time
import fer_mlflow.workflows.manifest
from fer_mlflow.cli import main
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
began = time.perf_counter()
status = 0
try: main(sys.argv[1:])
except SystemExit as stop: status = stop.code or 0
print(json.dumps({"status": status, "seconds": time.perf_counter() - began,
                  "mib": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024}))
"""


def check(rows: int) -> None:
    """Time the command itself on many rows, whose files are hard links to fewer."""
    print(f"check: {rows:,} rows, after imports")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        names = write_many(folder, min(rows, 20_000))
        (folder / "links").mkdir()
        lines = ["path,label,split,source"]
        for number in range(rows):
            path = f"links/{number:06d}.jpg"
            os.link(folder / names[number % len(names)], folder / path)
            lines.append(f"{path},{CLASSES[number % 7]},{'test' if number % 10 == 0 else 'train'},web")
        (folder / "m.csv").write_text("\n".join(lines) + "\n")
        for options in (["--decode", "false"], [], ["--near", "true"]):
            words = ["manifest", "check", str(folder / "m.csv"), *options]
            result = subprocess.run([sys.executable, "-c", CHILD, *words], capture_output=True, text=True, check=True)
            found = json.loads(result.stdout.splitlines()[-1])
            if found["status"]:
                sys.exit(f"check failed:\n{result.stdout}{result.stderr}")
            print(
                f"  {' '.join(options) or '(defaults)':16} {found['seconds']:6.1f} s, "
                f"{rows / found['seconds']:9,.0f} images/s, memory grows by {found['mib']:.0f} MiB",
                flush=True,
            )


def main() -> None:
    """Run the parts that were named, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", default=["hashing", "check"])
    parser.add_argument("--images", type=int, default=20_000, help="files of the hashing part")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of the hashing part")
    parser.add_argument("--rows", type=int, default=210_000, help="rows of the check part")
    arguments = parser.parse_args()
    parts = {
        "hashing": lambda: hashing(arguments.images, arguments.rounds),
        "check": lambda: check(arguments.rows),
    }
    for name in arguments.parts:
        parts[name]()
        print(flush=True)
    finish()


if __name__ == "__main__":
    main()
