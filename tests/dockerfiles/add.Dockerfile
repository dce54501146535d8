FROM ubuntu:24.04
ADD rootfs.tar.xz /
ADD --checksum=sha256:00 https://example.org/a /a
COPY https://example.org/b /b
COPY git@github.com:moby/buildkit.git /c
VOLUME /data
ONBUILD RUN make
