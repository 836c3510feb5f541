# One image for `akin serve`, `akin worker` and `akin migrate`. Targets: cpu (the default) and gpu.
#
#   docker build --target cpu --build-arg TORCH_INDEX_URL=ADDRESS --tag akin:0.1.0-cpu .
#
# Optional build secrets, which are stored in no layer: `pip_conf` is a configuration file for pip, and `ca_bundle` a file
# of certificates, which pip_conf names with `cert = /run/secrets/ca_bundle`.
# The base image needs python3 3.11 to 3.13 with venv: a slim image of Python, or Debian with python3 and python3-venv.
ARG BASE_IMAGE=python:3.12-slim-bookworm

FROM ${BASE_IMAGE} AS builder
# pip has an environment of its own, /opt/tools, and installs into /opt/venv, which is copied into the image without pip.
# Akin's code is in a third folder, which akin.pth adds to the import path.
RUN python3 -m venv /opt/tools \
 && python3 -m venv --without-pip /opt/venv \
 && echo /opt/akin > "$(/opt/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/akin.pth" \
 && groupadd --gid 10001 akin \
 && useradd --no-log-init --uid 10001 --gid akin --home-dir /tmp --no-create-home --shell /usr/sbin/nologin akin \
 && mkdir /data
ENV PATH=/opt/tools/bin:/usr/local/bin:/usr/bin:/bin \
    PIP_PYTHON=/opt/venv/bin/python \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_INPUT=1
WORKDIR /src
# The lock files name every dependency, so a change of code reinstalls none.
COPY deploy/image/ /opt/tools/
COPY requirements requirements/

FROM builder AS package
COPY pyproject.toml README.md LICENSE ./
COPY embedding embedding/
COPY index index/
COPY training training/
COPY service service/
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf --mount=type=secret,id=ca_bundle \
    --mount=type=cache,target=/root/.cache/pip \
    pip install --no-deps --require-hashes --requirement requirements/build.txt \
 && pip install --no-deps --no-build-isolation --target /opt/akin .

FROM builder AS dependencies-cpu
# An index of CPU builds of torch avoids gigabytes of CUDA packages. Empty: the default wheels, from pip's own index.
ARG TORCH_INDEX_URL=
# Further packages, separated by spaces, such as s3fs for images in S3 (AKIN_MEDIA_URL).
ARG EXTRA_PACKAGES=
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf --mount=type=secret,id=ca_bundle \
    --mount=type=cache,target=/root/.cache/pip \
    TORCH_INDEX_URL="${TORCH_INDEX_URL}" EXTRA_PACKAGES="${EXTRA_PACKAGES}" sh /opt/tools/install-dependencies.sh cpu

# The stages from here on only copy, so nothing that a build mounts can remain in the image.
FROM ${BASE_IMAGE} AS runtime
COPY --from=builder /etc/passwd /etc/group /etc/
COPY --from=builder --chown=10001:10001 /data /data
ENV PATH=/opt/akin/bin:/opt/venv/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    MPLCONFIGDIR=/tmp/matplotlib \
    AKIN_HOME=/data \
    AKIN_HOST=0.0.0.0 \
    AKIN_PORT=8000
USER 10001:10001
WORKDIR /data
VOLUME ["/data"]
EXPOSE 8000
STOPSIGNAL SIGTERM
LABEL org.opencontainers.image.title="akin" \
      org.opencontainers.image.description="Image retrieval that learns from a shop's own labelled images" \
      org.opencontainers.image.licenses="Apache-2.0"
HEALTHCHECK --interval=10s --timeout=5s --start-period=180s --retries=3 \
    CMD ["/bin/sh", "-c", "exec python -m service.web.probe \"http://127.0.0.1:$AKIN_PORT/livez\""]
ENTRYPOINT ["akin"]
CMD ["serve"]

FROM runtime AS cpu
COPY --from=dependencies-cpu /opt/venv /opt/venv
COPY --from=package /opt/akin /opt/akin
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.version="${VERSION}" org.opencontainers.image.revision="${REVISION}"

FROM builder AS dependencies-gpu
ARG TORCH_INDEX_URL=
ARG EXTRA_PACKAGES=
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf --mount=type=secret,id=ca_bundle \
    --mount=type=cache,target=/root/.cache/pip \
    TORCH_INDEX_URL="${TORCH_INDEX_URL}" EXTRA_PACKAGES="${EXTRA_PACKAGES}" sh /opt/tools/install-dependencies.sh gpu

FROM runtime AS gpu
# NVIDIA's container runtime reads these variables and adds the driver. The CUDA libraries are installed with torch.
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=dependencies-gpu /opt/venv /opt/venv
COPY --from=package /opt/akin /opt/akin
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.version="${VERSION}" org.opencontainers.image.revision="${REVISION}"

# The default target.
FROM cpu
