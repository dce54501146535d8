FROM debian
ARG FILE=/a/b.tar.gz
ENV NAME=${FILE##*/} STEM=${FILE%.gz} OTHER=${FILE/a/c}
