FROM debian
RUN ["sleep", 1]
COPY ["a", null]
SHELL ["bash", "-c"
