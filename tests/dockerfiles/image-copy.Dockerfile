FROM debian
COPY --from=busybox:1.36 /bin/busybox /bin/
COPY --from=ghcr.io/astral-sh/uv:latest /uv /usr/local/bin/
