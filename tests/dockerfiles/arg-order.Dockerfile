FROM debian
ENV MODE=release
RUN make $MODE
ARG MODE=debug
RUN make $MODE
ENV MODE=profile
RUN make $MODE
