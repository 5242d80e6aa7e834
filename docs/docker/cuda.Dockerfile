# docker build -f docs/docker/cuda.Dockerfile -t leak:cuda .
# docker run --gpus all leak:cuda cache build …
FROM python:3.11-slim-bookworm

# The default wheels hold the CUDA libraries; the host needs the NVIDIA driver and container toolkit.
RUN pip install --no-cache-dir "torch>=2.6" "torchvision>=0.21"
COPY . /opt/leak
RUN pip install --no-cache-dir "/opt/leak[objects,parquet]" \
    && useradd --create-home --uid 1000 leak
USER 1000
WORKDIR /home/leak
ENTRYPOINT ["leak"]
CMD ["--help"]
