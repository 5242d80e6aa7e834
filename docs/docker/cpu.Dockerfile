# docker build -f docs/docker/cpu.Dockerfile -t leak:cpu .
FROM python:3.11-slim-bookworm

# The default Linux wheel of torch brings 4 GB of CUDA libraries: name the index of CPU wheels that
# the installation page of torch gives, by --build-arg TORCH_INDEX=URL.
ARG TORCH_INDEX=https://pypi.org/simple
RUN PIP_INDEX_URL="$TORCH_INDEX" pip install --no-cache-dir "torch>=2.6" "torchvision>=0.21"
COPY . /opt/leak
RUN pip install --no-cache-dir "/opt/leak[objects,parquet]" \
    && useradd --create-home --uid 1000 leak
USER 1000
WORKDIR /home/leak
ENTRYPOINT ["leak"]
CMD ["--help"]
