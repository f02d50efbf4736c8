"""Build the images that the pipelines name, with the tags that `mofe compile --registry` writes.

    make images REGISTRY=registry.example/team ENGINE=docker PUSH=1

A tag is a digest of the code that its stage runs, so an existing tag is right and is not built again. A plain tag marks
the newest build of each target. Variables, with their defaults:

    REGISTRY    registry of the images (ghcr.io/mofe)
    TAG         plain tag of the newest build of every target (the version)
    TARGETS     targets to build, separated by spaces (all)
    ENGINE      docker or podman (docker if it is installed)
    BUILD_ARGS  further arguments of the engine's build command
    PUSH        1 pushes the tags that the registry lacks, and the plain tags
"""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from mofe import __version__
from mofe.runners.digests import compiled_pipeline, images_of, package_digest, stamp

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Build, tag and push the images; print the size of each."""
    if sys.argv[1:]:
        sys.exit(__doc__)
    registry = os.environ.get("REGISTRY") or "ghcr.io/mofe"
    tag = os.environ.get("TAG") or __version__
    engine = os.environ.get("ENGINE") or ("docker" if shutil.which("docker") else "podman")
    push = os.environ.get("PUSH") == "1"
    if not shutil.which(engine):
        sys.exit(f"{engine} is not installed: set ENGINE to docker or podman")

    wanted: dict[str, set[str]] = {
        target: {f"{registry}/mofe-{target}:{__version__}-{package_digest(target)}"} for target in ("pipeline", "serve")
    }
    for pipeline in ("mofe.yaml", "sharded.yaml", "tables.yaml", "detect.yaml"):
        for target, images in images_of(stamp(compiled_pipeline(pipeline).read_text(), registry)).items():
            wanted.setdefault(target, set()).update(images)
    targets = (os.environ.get("TARGETS") or " ".join(sorted(wanted))).split()
    if unknown := set(targets) - set(wanted):
        sys.exit(f"the Dockerfile has no target {', '.join(sorted(unknown))}; it has {', '.join(sorted(wanted))}")

    for target in targets:
        plain = f"{registry}/mofe-{target}:{tag}"
        there = {name: identity(engine, name, push) for name in wanted[target]}
        missing = sorted(name for name in there if not there[name])
        stale = identity(engine, plain, push) not in there.values()
        names = sorted({plain, *there})
        if missing or stale:
            build(engine, target, [plain, *missing])
            for name in [*missing, plain] if push else ():
                if subprocess.run([engine, "push", name]).returncode:
                    sys.exit(f"{engine} could not push {name}: see above")
        size = output(engine, "image", "inspect", "--format", "{{.Size}}", plain)
        megabytes = f"{int(size) / 1e6:,.0f} MB" if size else "in the registry"
        print(
            f"{target:10} {megabytes:>16}   {'built' if missing or stale else 'there already'}: {' '.join(names)}",
            flush=True,
        )


def build(engine: str, target: str, names: list[str]) -> None:
    """Build a target of the Dockerfile with several names, labelled with the git revision."""
    revision = (
        output("git", "-C", str(ROOT), "describe", "--always", "--exclude=*", "--abbrev=40", "--dirty") or "unknown"
    )
    command = [engine, "build", "--file", "docker/Dockerfile", "--target", target]
    command += ["--label", f"org.opencontainers.image.revision={revision}"]
    command += ["--label", f"org.opencontainers.image.version={__version__}"]
    command += [argument for name in names for argument in ("--tag", name)]
    done = subprocess.run([*command, *shlex.split(os.environ.get("BUILD_ARGS", "")), "."], cwd=ROOT)
    if done.returncode:
        sys.exit(f"{engine} could not build the target {target}: see above")


def identity(engine: str, name: str, in_registry: bool) -> str:
    """The manifest of an image in the registry, or its id on this machine; "" if the image does not exist."""
    where = ("manifest", "inspect") if in_registry else ("image", "inspect", "--format", "{{.Id}}")
    return output(engine, *where, name)


def output(*command: str) -> str:
    """The output of a command; "" if the command fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""


if __name__ == "__main__":
    main()
