FROM busybox
ARG PREFIX
ARG EMPTY=
ENV A=${PREFIX:-/usr/local} B=${EMPTY:-filled} C=${EMPTY-kept} D=${PREFIX+set}
WORKDIR ${PREFIX:-/opt}/src
