# The HTTP service on CPUs.
#
#   docker build -f docker/cpu.Dockerfile -t product-mil:cpu .
#   docker run --rm -p 127.0.0.1:8000:8000 -v "$PWD/runs/joint:/model:ro" product-mil:cpu

FROM python:3.12-slim AS wheel
WORKDIR /source
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim
COPY --from=wheel /wheels /wheels
# The wheel from above says which versions it needs.
# hadolint ignore=DL3013
RUN for wheel in /wheels/*.whl; do pip install --no-cache-dir "${wheel}[serve]"; done \
    && rm -r /wheels \
    && useradd --uid 10001 --create-home product_mil \
    && install -d -o product_mil /cache
ENV PRODUCT_MIL_CACHE=/cache \
    PYTHONUNBUFFERED=1
# Compiled programs; keep it to start faster.
VOLUME /cache
USER 10001
EXPOSE 8000
# Python ends at SIGINT even before it serves, which process 1 would not do at SIGTERM.
STOPSIGNAL SIGINT
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health')"]
ENTRYPOINT ["product-mil", "serve", "--host", "0.0.0.0"]
CMD ["--model", "/model"]
