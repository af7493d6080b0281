# qsmals as an image.
#
#   docker build -t qsmals .
#   docker build --build-arg VERSION=0.1.0 --build-arg REVISION=$(git rev-parse HEAD) -t qsmals:0.1.0 .
#   docker run --rm -u $(id -u):$(id -g) -v /data:/data:ro -v /out:/out qsmals /data /out participant
#
# Everything that a run needs is inside: no network, a read-only root file system, any uid and no
# capabilities are fine. Only OUTPUT_DIR (and the work folder, by default in it) are written.

ARG BASE=python:3.11-slim-bookworm
# the package's own, if no other is given: a label cannot ask for it
ARG VERSION=0.1.0.dev0

# -- build: a virtual environment from the lock file, then the package ------------------------------
FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore LANG=C.UTF-8
RUN python -m venv /opt/qsmals
COPY containers/requirements.lock /src/requirements.lock
RUN /opt/qsmals/bin/pip install --quiet --require-hashes --no-deps --requirement /src/requirements.lock
COPY pyproject.toml README.md LICENSE /src/
COPY qsmals /src/qsmals
COPY workflows /src/workflows
ARG VERSION
# without isolation: what it is built with is in the lock file too
RUN sed -i "s/^__version__ = .*/__version__ = \"${VERSION:?}\"/" /src/qsmals/__init__.py \
 && /opt/qsmals/bin/pip install --quiet --no-deps --no-build-isolation /src \
 && /opt/qsmals/bin/pip check \
 && /opt/qsmals/bin/pip uninstall --quiet --yes pip \
 && find /opt/qsmals -depth -type d \( -name tests -o -name test \) \
      -not -path '*/numpy/*' -not -path '*/numba/*' -exec rm -rf {} +
# the other packages' own tests are gone (190 MB): everything that a run loads must still be there
RUN cd / && /opt/qsmals/bin/qsmals --version \
 && NO_ET=1 /opt/qsmals/bin/python -c "import ants, bids, nibabel, nilearn.plotting, nipype.pipeline.engine, numba, pandas, scipy.stats"

# -- final ---------------------------------------------------------------------------------------
FROM ${BASE}
# OpenMP for numba's threads
RUN apt-get update -qq \
 && apt-get install -y -qq --no-install-recommends libgomp1 \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/qsmals /opt/qsmals
# HOME exists and is nobody's: qsmals writes nothing there, and puts it elsewhere if a library must
RUN mkdir -p /home/qsmals && chmod 0755 /home/qsmals
ENV PATH=/opt/qsmals/bin:$PATH \
    HOME=/home/qsmals \
    LANG=C.UTF-8 \
    PYTHONNOUSERSITE=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    NO_ET=1 \
    MPLBACKEND=Agg
ARG VERSION
ARG REVISION=
ARG CREATED=
ENV QSMALS_DOCKER_TAG=qsmals:${VERSION}
LABEL org.opencontainers.image.title="qsmals" \
      org.opencontainers.image.description="BIDS App for quantitative susceptibility mapping in amyotrophic lateral sclerosis" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
ENTRYPOINT ["qsmals"]
