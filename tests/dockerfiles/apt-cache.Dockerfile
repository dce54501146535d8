FROM debian:bookworm
RUN rm -f /etc/apt/apt.conf.d/docker-clean
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked \
    --mount=type=cache,target=/var/lib/apt/lists/,sharing=LOCKED,mode=0755 \
    apt-get update && \
    # the compiler
    apt-get install -y --no-install-recommends \
      gcc \

      make
