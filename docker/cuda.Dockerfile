# archer on NVIDIA GPUs: vLLM, DeepSpeed, and a compiler for the kernels that they build at run time.
#   docker build -f docker/cuda.Dockerfile -t archer:cuda .
#
# CUDA itself comes from the lock, as wheels that torch is built for, nvcc among them: a CUDA image
# underneath would be a second one of another version. The driver comes from the host, through
# NVIDIA's container toolkit.
FROM python:3.11.14-slim-bookworm

# gcc and g++: Triton and DeepSpeed compile when first used. libnuma1 for vLLM, the RDMA libraries
# for NCCL, which else falls back to TCP without a word. The rest as in cpu.Dockerfile.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends bubblewrap g++ gcc ibverbs-providers libc6-dev \
        libibverbs1 libnuma1 librdmacm1 make tini wget \
    && rm -rf /var/lib/apt/lists/*

RUN useradd --create-home --uid 1000 --shell /bin/bash archer \
    && install -d -o archer -g archer /opt/archer /opt/archer/runs \
        /home/archer/.cache /home/archer/.cache/archer /home/archer/.cache/huggingface \
    && echo "PATH=/opt/archer/.venv-cuda/bin:\$PATH" > /etc/profile.d/archer.sh

USER 1000:1000
WORKDIR /opt/archer
ENV CUDA_HOME=/opt/archer/.venv-cuda/lib/python3.11/site-packages/nvidia/cu13 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    NVIDIA_REQUIRE_CUDA="cuda>=13.0" \
    NVIDIA_VISIBLE_DEVICES=all \
    PATH=/opt/archer/.venv-cuda/bin:$PATH \
    PIP_NO_CACHE_DIR=1 \
    PYTHONUNBUFFERED=1

COPY --chown=archer:archer requirements/*.txt requirements/
COPY --chown=archer:archer scripts scripts
COPY --chown=archer:archer setup.py pyproject.toml ./
COPY --chown=archer:archer archer/__init__.py archer/__init__.py
RUN --mount=type=secret,id=pip,target=/etc/pip.conf,mode=0444 \
    scripts/setup.sh cuda .venv-cuda \
    && .venv-cuda/bin/python -m pip install --no-deps -r requirements/kuberay.txt
# Kernels that are compiled at run time link as with an installed CUDA; wheels lack these names.
RUN ln -s lib "$CUDA_HOME/lib64" && ln -s libcudart.so.13 "$CUDA_HOME/lib/libcudart.so"

COPY --chown=archer:archer . .

HEALTHCHECK --interval=5m --timeout=60s --start-period=1m \
    CMD ["python", "-m", "archer.doctor", "shm", "disk"]
ENTRYPOINT ["tini", "--"]
CMD ["python", "-m", "archer.main"]
