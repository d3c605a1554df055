#!/bin/sh
# The steps that make the driver's root file system from a minimal Debian, for the Dockerfile and
# for e2e/cluster alike: what is tested is what is shipped.
#
# Usage: install.sh packages            print the Debian packages of the finished image
#        install.sh build-packages      print those that building needs besides
#        install.sh requirements SOURCE print what the next step installs, a line each
#        install.sh dependencies SOURCE a virtual environment in /opt/slayerfs, without pip, with
#                                       what SOURCE/pyproject.toml asks for
#        install.sh project SOURCE      the project itself into it
#
# The last two need root, a build stage with both lists of packages, and the network; the finished
# image takes /opt/slayerfs from there and nothing else: no pip, compiler or cache is in it.
# README.md beside this file says how large it gets and why.
set -eu

PREFIX=/opt/slayerfs
BUILD=/opt/slayerfs-build
EXTRAS="otel"

# Of the many services that botocore describes: S3, and what its credential chain may ask.
SERVICES="s3 sts sso sso-oidc signin"

requirements() { # SOURCE: of the project, then of building its wheel
    python3 - "$1/pyproject.toml" "$EXTRAS" <<'EOF'
import sys, tomllib
values = tomllib.load(open(sys.argv[1], "rb"))
project = values["project"]
print(*project["dependencies"], sep="\n")
for extra in sys.argv[2].split():
    print(*project["optional-dependencies"][extra], sep="\n")
print("# build")
print(*values["build-system"]["requires"], sep="\n")
EOF
}

pip() {
    "$BUILD/bin/python" -m pip --disable-pip-version-check --no-cache-dir --quiet "$@"
}

site_packages() {
    "$PREFIX/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'
}

compile() { # DIRECTORY...
    # Nobody can write to the image's files, so nobody has to ask whether a .pyc is up to date; and
    # a worker of each volume starts half a second sooner with them.
    "$PREFIX/bin/python" -m compileall -q -j 0 --invalidation-mode unchecked-hash "$@"
}

strip_dependencies() { # SITE-PACKAGES
    keep=""
    for service in $SERVICES; do
        keep="$keep -o -name $service"
    done
    # shellcheck disable=SC2086
    find "$1/botocore/data" -mindepth 1 -maxdepth 1 -type d \
        ! \( -name '' $keep \) -exec rm -rf {} +
    find "$1" -depth -type d \( -name tests -o -name test -o -name testing \) \
        -path '*/site-packages/*/*' -exec rm -rf {} +
    # Sources of extensions and what only a type checker or an editor reads.
    find "$1" -type f \( -name '*.pyi' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.c' \
        -o -name '*.h' -o -name '*.cpp' \) -delete
}

dependencies() { # SOURCE
    python3 -m venv "$BUILD"
    requirements "$1" | sed '/^# build/,$d' >"$BUILD/requirements.txt"
    requirements "$1" | sed '1,/^# build/d' >"$BUILD/build-requirements.txt"
    pip install --requirement "$BUILD/build-requirements.txt"
    python3 -m venv --without-pip "$PREFIX"
    pip --python "$PREFIX/bin/python" install --no-compile --only-binary :all: \
        --requirement "$BUILD/requirements.txt"
    site=$(site_packages)
    strip_dependencies "$site"
    compile "$site"
}

project() { # SOURCE
    rm -rf "$BUILD/wheels"
    pip wheel --no-deps --no-build-isolation --wheel-dir "$BUILD/wheels" "$1"
    pip --python "$PREFIX/bin/python" install --no-compile --no-deps --no-index "$BUILD"/wheels/*.whl
    compile "$(site_packages)/csi_slayer"
    "$PREFIX/bin/csi-slayer" --help >/dev/null
}

case ${1:-} in
    packages) echo "python3 ca-certificates" ;;
    build-packages) echo "python3-venv" ;;
    requirements | dependencies | project) "$1" "$2" ;;
    *) echo "install.sh: unknown step: ${1:-none}" >&2; exit 2 ;;
esac
