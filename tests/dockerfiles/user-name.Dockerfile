FROM node:20
WORKDIR /home/node/app
COPY --chown=node:node package*.json ./
USER node
RUN npm ci
CMD ["node", "server.js"]
