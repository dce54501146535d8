FROM debian
RUN ["/bin/bash", "-c", "echo hello"]
RUN echo shell
RUN [ -d /tmp ] && echo yes
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN wget -O - https://example.org | wc -l
RUN ["true"]
RUN echo back
