# syntax=docker/dockerfile:1
FROM node:20-alpine AS base
ENV NODE_ENV=production
WORKDIR /app

FROM base AS dev
ARG NODE_ENV=development
WORKDIR /$NODE_ENV
RUN npm ci
