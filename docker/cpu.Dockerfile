# archer on a CPU: runs the two commands of the README, make train and make test.
#   docker build -f docker/cpu.Dockerfile -t archer:cpu .
FROM python:3.11.14-slim-bookworm

# make for the two commands; libnuma1 for vLLM; bubblewrap for level A of the sandbox; tini, because
# PID 1 has to reap what Ray leaves behind; wget for the probes that KubeRay adds to pods. Debian
# removes superseded versions, so that pinning them breaks the build.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends bubblewrap libnuma1 make tini wget \
    && rm -rf /var/lib/apt/lists/*

# Folders for volumes exist, so that a new volume takes over their owner. A login shell, which
# KubeRay may start, resets PATH and then reads profile.d.
RUN useradd --create-home --uid 1000 --shell /bin/bash archer \
    && install -d -o archer -g archer /opt/archer /opt/archer/runs \
        /home/archer/.cache /home/archer/.cache/archer /home/archer/.cache/huggingface \
    && echo "PATH=/opt/archer/.venv/bin:\$PATH" > /etc/profile.d/archer.sh

USER 1000:1000
WORKDIR /opt/archer
ENV PATH=/opt/archer/.venv/bin:$PATH \
    PIP_NO_CACHE_DIR=1 \
    PYTHONUNBUFFERED=1

# The environment's own layers: they are built again when a lock changes, not when code does. A
# pip.conf can be lent to the build with --secret id=pip,src=pip.conf, and stays out of the image.
COPY --chown=archer:archer requirements/*.txt requirements/
COPY --chown=archer:archer scripts scripts
COPY --chown=archer:archer setup.py pyproject.toml ./
COPY --chown=archer:archer archer/__init__.py archer/__init__.py
RUN --mount=type=secret,id=pip,target=/etc/pip.conf,mode=0444 \
    scripts/setup.sh cpu .venv \
    && .venv/bin/python -m pip install --no-deps -r requirements/kuberay.txt

COPY --chown=archer:archer . .

# Whether runs and the cache can still be written: nothing is served here that could be asked.
HEALTHCHECK --interval=5m --timeout=60s --start-period=1m \
    CMD ["python", "-m", "archer.doctor", "shm", "disk"]
ENTRYPOINT ["tini", "--"]
CMD ["python", "-m", "archer.main"]
