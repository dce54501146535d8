# escape=`
FROM mcr.microsoft.com/windows/servercore:ltsc2022
SHELL ["powershell", "-Command"]
ENV TOOLS="C:\tools"
WORKDIR C:\build
COPY src\ C:\build\
RUN Invoke-WebRequest `
    -Uri https://example.org/a.zip
