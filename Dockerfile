# The image of the driver. `docker build -t slayerfs/csi-slayer .` needs BuildKit's defaults only.
# deploy/image/install.sh has the steps, deploy/image/README.md the reasons and sizes.

FROM debian:bookworm-slim AS base
COPY deploy/image/install.sh /usr/local/lib/install.sh
RUN apt-get update -qq \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        $(/usr/local/lib/install.sh packages) \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/* /var/log/* \
        /usr/local/lib/install.sh

FROM base AS build
COPY deploy/image/install.sh /usr/local/lib/install.sh
RUN apt-get update -qq \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        $(/usr/local/lib/install.sh build-packages)
# Apart from the code, so that they are built again only when they change.
COPY pyproject.toml /source/
RUN /usr/local/lib/install.sh dependencies /source
COPY . /source/
RUN /usr/local/lib/install.sh project /source

FROM base
COPY --from=build /opt/slayerfs /opt/slayerfs
# Mounting needs root and CAP_SYS_ADMIN. The root file system may be read-only: what is written goes
# to the cache directory, the run directory and /tmp, which the chart mounts.
USER root
ENV PATH=/opt/slayerfs/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
ENTRYPOINT ["csi-slayer"]
