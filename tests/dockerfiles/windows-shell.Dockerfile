# escape=`
FROM mcr.microsoft.com/windows/nanoserver:ltsc2022
USER ContainerAdministrator
ENV NAME=a` b QUOTED="say `"hi`""
RUN echo %NAME% `
  && dir C:\
