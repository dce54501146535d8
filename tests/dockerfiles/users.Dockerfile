FROM debian
RUN groupadd -g 1000 app && useradd -u 1000 -g 1000 app
COPY --chown=1000:1000 package.json /home/app/
USER 1000:1000
WORKDIR /home/app
COPY . .
RUN --mount=type=cache,target=.cache,uid=1000,gid=1000 make
USER root
RUN make install
