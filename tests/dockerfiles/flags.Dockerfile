FROM debian
COPY --chown=1:1 --chown=2:2 a b
RUN --network=none --network=host true
RUN --security=insecure true
COPY --chmod=755 a b
