FROM python:3.12
RUN python -m venv /venv
ENV PATH="/venv/bin:$PATH"
ENV LD_LIBRARY_PATH=/opt/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
