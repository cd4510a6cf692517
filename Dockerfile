# Heatmaps on the CPU; how to build and run it: docs/clusters.md
FROM python:3.12.11-slim-bookworm

# An index of CPU builds of PyTorch makes the image gigabytes smaller.
ARG PIP_EXTRA_INDEX_URL=""

WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY cfcam_gpu cfcam_gpu
COPY kernels kernels
RUN pip install --no-cache-dir '/src[demo,timm,hf,dicom]' \
    && useradd --uid 1000 cfcam

# Any user may run it: caches go below /tmp.
ENV HOME=/tmp
USER 1000
WORKDIR /data
ENTRYPOINT ["cfcam"]
CMD ["--help"]
